"""LearnerTasks-v0: a float64 NumPy learner takes the same updates on the same problem."""

import numpy as np
import pytest
from envs.task_streams import uniform_pair
from scipy import stats

import metafast


def make(num_envs, **kwargs):
    return metafast.envs.make_vec("LearnerTasks-v0", num_envs, **kwargs)


class Learner:
    """The problem and the parameters of each environment of a fresh reset, in plain NumPy."""

    def __init__(self, env, features=5, examples=20, problem="regression", ridge=5e-4):
        columns = env.get_state()["state"]
        sizes = [features * examples, examples, features, features, features, features, 10]
        x, self.targets, self.parameters, *_ = np.split(columns, np.cumsum(sizes)[:-1], axis=1)
        self.x = x.reshape(len(x), examples, features)
        self.classification, self.ridge = problem == "classification", ridge
        self.momentum = np.zeros_like(self.parameters)
        self.gradient = np.zeros_like(self.parameters)
        self.changes = np.zeros((len(x), 5))
        self.log_loss = None
        self.evaluate()

    def evaluate(self):
        predictions = np.einsum("nmd,nd->nm", self.x, self.parameters)
        if self.classification:
            margins = self.targets * predictions
            losses = np.logaddexp(0, -margins)
            slopes = -self.targets / (1 + np.exp(margins))
        else:
            slopes = predictions - self.targets
            losses = slopes**2 / 2
        loss = losses.mean(axis=1) + self.ridge / 2 * (self.parameters**2).sum(axis=1)
        log_loss = np.log(np.maximum(loss, 1e-12))
        previous = self.gradient
        self.gradient = np.einsum("nm,nmd->nd", slopes, self.x) / self.x.shape[1] + self.ridge * self.parameters
        self.norm = np.linalg.norm(self.gradient, axis=1)
        self.cosines = [self.cosine(previous), self.cosine(self.momentum)]
        reward = 0 if self.log_loss is None else self.log_loss - log_loss
        self.log_loss = log_loss
        return reward

    def cosine(self, other):
        norms = self.norm * np.linalg.norm(other, axis=1)
        return (self.gradient * other).sum(axis=1) / np.maximum(norms, 1e-12)

    def update(self, actions):
        self.momentum = 0.9 * self.momentum + 0.1 * self.gradient
        if actions.shape[1] == 1:
            change = 10 ** np.clip(actions.astype(np.float64), -4, 1) * self.gradient
        else:
            by_gradient, by_momentum, by_direction = np.clip(actions.astype(np.float64), -1, 1).T[:, :, None]
            change = by_gradient * self.gradient + by_momentum * self.momentum
            change = change + by_direction * self.gradient / self.norm[:, None]
        self.parameters = np.clip(self.parameters - change, -100, 100)
        reward = self.evaluate()
        self.changes = np.column_stack([-reward, self.changes[:, :4]])
        return reward

    def observation(self, progress):
        columns = [self.log_loss, self.changes, np.log(np.maximum(self.norm, 1e-12)), *self.cosines]
        return np.column_stack([*columns, np.full(len(self.norm), progress)])


CASES = [
    {},
    {"problem": "classification"},
    {"action": "coefficients"},
    {"problem": "classification", "action": "coefficients", "ridge": 0.0},
    {"features": 1, "examples": 1, "noise": 0.0},
    {"features": 8, "examples": 3, "feature_scales": 1.0, "action": "coefficients"},
]


@pytest.mark.parametrize("num_envs", [5, 300])
@pytest.mark.parametrize("kwargs", CASES)
def test_a_float64_learner_gives_the_same_numbers(isa, rng, kwargs, num_envs):
    env = make(num_envs, steps=12, **kwargs)
    observations, _ = env.reset(seed=7)
    known = {key: value for key, value in kwargs.items() if key in ("features", "examples", "problem", "ridge")}
    learner = Learner(env, **known)
    np.testing.assert_allclose(observations, learner.observation(0), rtol=1e-5, atol=1e-5)
    space = env.single_action_space
    for t in range(1, 13):
        actions = rng.uniform(space.low - 0.2, np.minimum(space.high, 0.2), (num_envs, *space.shape)).astype(np.float32)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        np.testing.assert_allclose(rewards, learner.update(actions), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(observations, learner.observation(t / 12), rtol=1e-4, atol=1e-4)
        assert terminated.all() == terminated.any() == (t == 12)
        assert not truncated.any()
    columns = env.get_state()["state"]
    first = learner.x[0].size + learner.targets.shape[1]
    size = learner.parameters.shape[1]
    np.testing.assert_allclose(columns[:, first : first + size], learner.parameters, rtol=1e-8, atol=1e-10)


def expected_problem(state, features, examples, noise, scales, first_block):
    """The data by the stream: normals two from a block, then the scales; targets from the true parameters."""
    count = (features + 1) * examples + 2 * features
    block, normals = first_block, []
    for _ in range((count + 1) // 2):
        first, second = uniform_pair(state, 0, block)
        radius = np.sqrt(-2 * np.log(1 - first))
        normals += [radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)]
        block += 1
    normals = np.stack(normals[:count], axis=1)
    drawn = np.concatenate([uniform_pair(state, 0, block + b) for b in range((features + 1) // 2)]).T
    low, high = np.log(scales)
    scale = np.exp(low + (high - low) * drawn[:, :features])
    x, errors, parameters, truth = np.split(normals, np.cumsum([features * examples, examples, features]), axis=1)
    x = x.reshape(-1, examples, features) * scale[:, None, :]
    return x, np.einsum("nmd,nd->nm", x, truth) + noise * errors, parameters


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("problem", ["regression", "classification"])
@pytest.mark.parametrize(("features", "examples"), [(5, 20), (4, 3), (1, 1)])
def test_problems_are_the_replays(isa, split, problem, features, examples):
    env = make(19, features=features, examples=examples, noise=0.3, split=split, problem=problem)
    for options in ({"seed": 9}, {}):
        env.reset(**options)
        state = env.get_state()
        first_block = 0 if split == "train" else 2**31
        expected = expected_problem(state, features, examples, 0.3, (0.5, 2.0), first_block)
        learner = Learner(env, features, examples, problem)
        np.testing.assert_allclose(learner.x, expected[0], rtol=1e-12, atol=1e-13)
        targets = expected[1] if problem == "regression" else np.where(expected[1] < 0, -1, 1)
        np.testing.assert_allclose(learner.targets, targets, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(learner.parameters, expected[2], rtol=1e-12, atol=1e-13)


def test_parameters_start_standard_normal():
    env = make(4000)
    env.reset(seed=10)
    parameters = Learner(env).parameters
    assert stats.kstest(parameters.ravel(), "norm").pvalue > 1e-4
    # Of a feature's 20 examples: its scale is log-uniform between 1/2 and 2, and they are normal.
    x = Learner(env).x
    scales = np.sqrt((x**2).mean(axis=1)).ravel()
    assert 0.9 < np.exp(np.log(scales).mean()) < 1.02
    assert np.log(scales).std() == pytest.approx(np.hypot(np.log(4) / np.sqrt(12), 1 / np.sqrt(40)), rel=0.03)


def test_splits_share_no_problem():
    train, test = make(500), make(500, split="test")
    np.testing.assert_array_equal(train.reset(seed=0)[0], make(500, split="train").reset(seed=0)[0])
    assert not np.isclose(train.reset(seed=0)[0][:, 0], test.reset(seed=0)[0][:, 0]).any()


@pytest.mark.parametrize("problem", ["regression", "classification"])
def test_a_good_constant_learning_rate_learns(problem):
    """Gradient descent at 10^-0.7 brings the loss down, and the rewards add up to the fall of its logarithm."""
    env = make(1000, problem=problem)
    first = env.reset(seed=11)[0][:, 0]
    total = np.zeros(1000)
    for _ in range(50):
        observations, rewards, terminated, _, _ = env.step(np.full((1000, 1), -0.7, np.float32))
        total += rewards
    assert terminated.all()
    np.testing.assert_allclose(total, first - observations[:, 0], rtol=1e-4, atol=1e-4)
    assert np.median(total) > 1
    assert (total > 0).mean() > 0.99
    # A millionth of that rate, clipped to 10^-4, hardly learns.
    env.reset(seed=11)
    slow = sum(env.step(np.full((1000, 1), -7, np.float32))[1].mean() for _ in range(50))
    assert 0 < slow < 0.1


@pytest.mark.parametrize("kwargs", [*CASES, {"feature_scales": 1000.0, "noise": 100}])
def test_everything_stays_finite(rng, kwargs):
    """Whatever the actions: the largest rate diverges up to the limits of the parameters."""
    env = make(64, steps=30, **kwargs)
    env.reset(seed=13)
    size = env.single_action_space.shape[0]
    for value in (1.0, -1.0, 3e38):
        for _ in range(31):
            observations, rewards, *_ = env.step(np.full((64, size), value, np.float32))
            assert np.isfinite(observations).all()
            assert np.isfinite(rewards).all()
        assert np.isfinite(env.get_state()["state"]).all()


def test_unfit_arguments_are_refused():
    with pytest.raises(ValueError, match="problem must be 'regression' or 'classification', not 'ranking'"):
        make(2, problem="ranking")
    with pytest.raises(ValueError, match="action must be 'learning_rate' or 'coefficients', not None"):
        make(2, action=None)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'validation'"):
        make(2, split="validation")
    with pytest.raises(ValueError, match="features must be between 1 and 1000, not 0"):
        make(2, features=0)
    with pytest.raises(ValueError, match="noise must be between 0 and 100, not -1"):
        make(2, noise=-1)
    with pytest.raises(ValueError, match=r"feature_scales must be between 0\.001 and 1000\.0, not 0"):
        make(2, feature_scales=(0, 1))
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="nan"):
        env.step(np.full((2, 1), np.nan, np.float32))
