import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from metafast.data import breast_cancer
from metafast.data.labelled import LabelledDataVectorEnv

FEATURES, LABELS = np.arange(10.0).reshape(5, 2), np.array([0, 2, 1, 0, 2])


def test_each_step_is_an_episode_with_reward_one_for_the_right_label():
    env = LabelledDataVectorEnv(FEATURES, LABELS, 3, shuffle=False)
    observations, _ = env.reset(seed=0)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.single_action_space.n == 3
    np.testing.assert_array_equal(observations, FEATURES[:3])
    following, rewards, terminated, truncated, infos = env.step(np.array([0, 0, 1]))
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert terminated.all()
    assert not truncated.any()
    np.testing.assert_array_equal(infos["final_obs"], FEATURES[:3])
    np.testing.assert_array_equal(following, FEATURES[[3, 4, 0]])
    assert following in env.observation_space


@pytest.mark.parametrize("num_envs", [1, 3, 5, 12])
def test_every_epoch_shows_every_row_once_in_an_order_of_its_own(num_envs):
    env = LabelledDataVectorEnv(FEATURES, LABELS, num_envs)
    seen = [env.reset(seed=7)[0]]
    while sum(map(len, seen)) < 15:
        seen.append(env.step(np.zeros(num_envs, dtype=int))[0])
    epochs = np.concatenate(seen)[:15].reshape(3, 5, 2)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), FEATURES[:, 0])
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(env.reset(seed=7)[0], seen[0])


def test_state_puts_it_back():
    env, other = (LabelledDataVectorEnv(FEATURES, LABELS, 3) for _ in range(2))
    env.reset(seed=3)
    env.step(np.zeros(3, dtype=int))
    other.set_state(env.get_state())
    for _ in range(4):
        for ours, theirs in zip(*(each.step(np.array([0, 1, 2]))[:2] for each in (env, other)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_envs"):
        LabelledDataVectorEnv(FEATURES, LABELS, 0)
    with pytest.raises(ValueError, match="features and labels"):
        LabelledDataVectorEnv(FEATURES, LABELS[:-1], 2)
    env = LabelledDataVectorEnv(FEATURES, LABELS, 2)
    with pytest.raises(ValueError, match="seed"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="actions must have shape"):
        env.step(np.zeros(3, dtype=int))


def test_breast_cancer_split_is_standardised_stratified_and_disjoint():
    (features, labels), (test_features, test_labels) = map(breast_cancer.load, ("train", "test"))
    assert (len(features), len(test_features)) == (426, 143)
    np.testing.assert_allclose(features.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(features.std(0), 1.0, atol=1e-5)
    assert abs(labels.mean() - test_labels.mean()) < 0.01
    assert not {row.tobytes() for row in features} & {row.tobytes() for row in test_features}
    env = breast_cancer.make_vec(143, split="test")
    np.testing.assert_array_equal(env.reset(seed=0)[0], test_features)
    assert env.step(test_labels)[1].all()
