"""The checker on environments that are right, on ones with a single fault each, and on other people's."""

import functools
import pickle
import subprocess
import sys
import types

import gymnasium
import numpy as np
import pytest
from envs.faulty_vector_env import LIMIT, Walk
from gymnasium.vector import SyncVectorEnv

import metafast
from metafast.envs import VectorEnvError, check_vector_env
from metafast.envs._catalogue import CATALOGUE

MODES = ("next_step", "same_step", "disabled")
WALK_MODES = ("NextStep", "SameStep", "Disabled")


def check(factory, **options):
    return check_vector_env(factory(), factory=factory, raise_on_error=False, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("env_id", "exact"),
    [(env_id, exact) for env_id in sorted(CATALOGUE) for exact in (False, True)[: 1 + (env_id in gymnasium.registry)]],
)
def test_native_environments_are_clean(env_id, exact, mode):
    make = functools.partial(metafast.envs.make_vec, env_id, 4, autoreset_mode=mode, max_episode_steps=17, exact=exact)
    report = check(make)
    assert report.ok, str(report)
    assert "episodes.limit" in report.passed
    assert len(report.passed) > 25
    assert not report.skipped, str(report)


def test_native_environments_are_clean_without_a_factory():
    report = check_vector_env(metafast.envs.make_vec("CartPole-v1", 3, max_episode_steps=17, copy=False))
    assert report.ok
    assert set(report.skipped) == {"memory.results_kept", "memory.results_own", "lifecycle.before_reset"}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("mode", WALK_MODES)
def test_a_right_environment_is_clean(mode, continuous):
    report = check(functools.partial(Walk, mode, continuous=continuous))
    assert report.ok, str(report)
    assert not report.skipped, str(report)


# The fault, the mode and action space in which it shows, and the one check that finds it.
FAULTS = {
    "unbatched space": ("NextStep", False, "spaces.batched_observation", "error"),
    "no mode": ("NextStep", False, "attributes.metadata", "warning"),
    "render mode": ("NextStep", False, "attributes.render_mode", "error"),
    "frames of floats": ("NextStep", False, "outputs.frames", "error"),
    "four results": ("NextStep", False, "outputs.step", "error"),
    "dtype of observations": ("NextStep", False, "outputs.observations", "error"),
    "outside the space": ("NextStep", False, "outputs.within_space", "error"),
    "dtype of rewards": ("NextStep", False, "outputs.rewards", "error"),
    "dtype of flags": ("NextStep", False, "outputs.flags", "error"),
    "infos without masks": ("NextStep", False, "outputs.infos", "warning"),
    "ignores the seed": ("NextStep", False, "seeding.reproducible", "error"),
    "one seed always": ("SameStep", False, "seeding.takes_effect", "error"),
    "one seed for all": ("NextStep", False, "seeding.environments_differ", "error"),
    "every episode alike": ("SameStep", False, "seeding.continues", "error"),
    "no list of seeds": ("NextStep", False, "seeding.list", "warning"),
    "accepts any seed": ("NextStep", False, "seeding.refused", "warning"),
    "reward of a reset": ("NextStep", False, "autoreset.reset_row", "error"),
    "steps after a reset": ("NextStep", False, "autoreset.action_ignored", "error"),
    "no final_obs": ("SameStep", False, "autoreset.final_obs", "error"),
    "mask of final_obs": ("SameStep", False, "autoreset.final_obs", "error"),
    "final_obs of the next episode": ("SameStep", False, "autoreset.final_obs", "error"),
    "no final_info": ("SameStep", False, "autoreset.final_info", "error"),
    "ignores the mask": ("Disabled", False, "autoreset.reset_mask", "error"),
    "accepts any mask": ("Disabled", False, "autoreset.mask_refused", "error"),
    "steps what has ended": ("Disabled", False, "autoreset.ended_step", "error"),
    "swallows truncation": ("NextStep", False, "episodes.limit", "error"),
    "a longer limit": ("SameStep", False, "episodes.limit", "error"),
    "truncation as termination": ("Disabled", False, "episodes.limit", "error"),
    "overwrites observations": ("NextStep", False, "memory.results_kept", "error"),
    "returns its state": ("NextStep", False, "memory.results_kept", "error"),
    "modifies actions": ("NextStep", False, "memory.actions_kept", "error"),
    "crashes on few actions": ("NextStep", False, "actions.too_few", "error"),
    "hangs on many actions": ("NextStep", False, "actions.too_many", "error"),
    "takes the first actions": ("NextStep", False, "actions.too_many", "error"),
    "broadcasts actions": ("NextStep", True, "actions.shape", "error"),
    "takes fractions": ("NextStep", False, "actions.dtype", "error"),
    "takes any number": ("NextStep", False, "actions.out_of_range", "error"),
    "accepts NaN": ("NextStep", True, "actions.not_finite", "error"),
    "steps before it checks": ("NextStep", False, "actions.unchanged", "error"),
    "copies without its state": ("SameStep", False, "lifecycle.deepcopy", "error"),
    "steps before its reset": ("NextStep", False, "lifecycle.before_reset", "warning"),
    "closes once": ("NextStep", False, "lifecycle.close", "error"),
    "usable when closed": ("NextStep", False, "lifecycle.after_close", "warning"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_found_by_its_check_alone(fault):
    mode, continuous, name, severity = FAULTS[fault]
    report = check(functools.partial(Walk, mode, fault=fault, continuous=continuous), timeout=4, num_steps=80)
    assert {finding.check for finding in report.findings} == {name}, str(report)
    assert {finding.severity for finding in report.findings} == {severity}
    assert name in str(report)
    assert name not in report.passed


def test_every_check_finds_something():
    """So that none of them is one that cannot fail."""
    from metafast.envs.checker._check import _CHECKS

    found = {name for _, _, name, _ in FAULTS.values()}
    elsewhere = {
        "attributes.vector_env",
        "attributes.spec",
        "attributes.unwrapped",
        "spaces.declared",
        "spaces.batched_action",
        "outputs.reset",
        "seeding.across_instances",
        "memory.results_own",
        "lifecycle.pickle",
    }
    assert found | elsewhere == set(_CHECKS)


class Altered(Walk):
    """The walkers, with what one attribute or method gives replaced from outside."""

    replacements = types.MappingProxyType({})

    def __getattribute__(self, name):
        replacements = type(self).replacements
        return replacements[name] if name in replacements else super().__getattribute__(name)

    def __reduce__(self):
        return type(self), ()


@pytest.mark.parametrize(
    ("replacements", "name"),
    [
        ({"num_envs": 2.5}, "attributes.vector_env"),
        ({"closed": True}, "attributes.vector_env"),
        ({"spec": "Walk-v0"}, "attributes.spec"),
        ({"unwrapped": None}, "attributes.unwrapped"),
        ({"single_action_space": None}, "spaces.declared"),
        ({"action_space": gymnasium.spaces.Discrete(2)}, "spaces.batched_action"),
        ({"reset": lambda **keywords: (np.zeros((4, 2), np.float32),)}, "outputs.reset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_says_of_itself(replacements, name, monkeypatch):
    env = Altered()
    monkeypatch.setattr(Altered, "replacements", replacements)
    report = check_vector_env(env, raise_on_error=False)
    assert report.findings[0].check == name


class Counting(Walk):
    """No two instances give the same."""

    made = 0

    def __init__(self):
        super().__init__()
        Counting.made += 1
        self.number = Counting.made

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed if seed is None or seed < 0 else seed + 100 * self.number, options=options)


def test_instances_that_differ():
    report = check(Counting, num_steps=40)
    assert "seeding.across_instances" in {finding.check for finding in report.errors}


class Sharing(Walk):
    """Reads its position back from the rewards that it returned last."""

    last = None

    def step(self, actions):
        result = super().step(actions)
        if self.last is not None:
            self.positions[:, 0] += 0.001 * self.last
        self.last = result[1]
        return result

    def reset(self, *, seed=None, options=None):
        if not options:
            self.last = None
        return super().reset(seed=seed, options=options)


def test_results_that_the_environment_reads_again():
    report = check(Sharing, num_steps=40)
    assert {finding.check for finding in report.errors} == {"memory.results_own"}, str(report)


class Forgetful(Walk):
    """Pickles without the state of its generators."""

    def __reduce__(self):
        return type(self), (), {**self.__dict__, "generators": [np.random.default_rng(index) for index in range(4)]}

    def __setstate__(self, state):
        self.__dict__.update(state)


def test_a_pickle_that_forgets():
    report = check(Forgetful, num_steps=40)
    assert {finding.check for finding in report.errors} == {"lifecycle.pickle"}, str(report)


def test_errors_are_raised_with_all_findings():
    with pytest.raises(VectorEnvError, match=r"2 errors.*\n.*autoreset.mask_refused[^!]*lists|autoreset") as caught:
        check_vector_env(Walk("Disabled", fault="accepts any mask"))
    assert isinstance(caught.value, AssertionError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.report.errors == caught.value.report.errors


def test_warnings_are_not_raised():
    report = check_vector_env(Walk(fault="no list of seeds"))
    assert [finding.check for finding in report.warnings] == ["seeding.list"]
    assert not report.ok


def test_what_cannot_be_made_afresh_is_left_out():
    class Single(Walk):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

        def __reduce__(self):
            raise TypeError("no pickles")

    report = check_vector_env(Single())
    assert report.ok
    assert "factory" in report.skipped["actions.too_few"]
    assert "not supported" in report.skipped["lifecycle.deepcopy"]


def test_spawned_processes():
    env = metafast.envs.make_vec("CartPole-v1", 2, max_episode_steps=9)
    make = functools.partial(metafast.envs.make_vec, "CartPole-v1", 2, max_episode_steps=9)
    report = check_vector_env(env, factory=make, start_method="spawn", num_steps=30)
    assert "actions.too_few" in report.passed


def sync(env_id, mode):
    functions = [lambda: gymnasium.make(env_id, max_episode_steps=LIMIT)] * 4
    return SyncVectorEnv(functions, autoreset_mode=mode)


@pytest.mark.parametrize("mode", WALK_MODES)
@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("CartPole-v1", {"actions.unchanged", "lifecycle.after_close"}),
        ("Pendulum-v1", {"actions.shape", "actions.not_finite", "actions.unchanged", "lifecycle.after_close"}),
    ],
)
def test_gymnasiums_sync_vector_env(env_id, expected, mode):
    """It steps some environments before it finds the others' actions to be none."""
    report = check(functools.partial(sync, env_id, mode), max_episode_steps=LIMIT)
    assert {finding.check for finding in report.findings} == expected, str(report)


def test_gymnasiums_cartpole_for_vectors():
    make = functools.partial(
        gymnasium.make_vec, "CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point", max_episode_steps=LIMIT
    )
    report = check(make)
    assert {finding.check for finding in report.findings} == {
        "seeding.list",
        "autoreset.reset_mask",
        "lifecycle.close",
    }, str(report)


ENVPOOL = """
import functools, warnings
warnings.simplefilter("ignore")
import envpool
from metafast.envs import check_vector_env
make = functools.partial(envpool.make_gymnasium, "{}", num_envs=4, seed=1, max_episode_steps=12)
report = check_vector_env(make(), factory=make, max_episode_steps=12, raise_on_error=False)
for finding in report.findings:
    print(finding.check, "|", finding.seen.splitlines()[0])
"""


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_envpool(env_id):
    pytest.importorskip("envpool")
    result = subprocess.run([sys.executable, "-c", ENVPOOL.format(env_id)], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    findings = dict(line.split(" | ", 1) for line in result.stdout.splitlines())
    assert {"seeding.reproducible", "spaces.batched_action", "actions.too_few", "actions.not_finite"} <= set(findings)
    assert "SIGABRT" in findings["actions.too_few"]
    assert "episodes.limit" not in findings
