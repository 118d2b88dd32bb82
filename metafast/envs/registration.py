"""Gymnasium's registry: ``gymnasium.make_vec("metafast/CartPole-v1", num_envs=1024)``."""

import gymnasium

from metafast.envs._catalogue import CATALOGUE

__all__ = ["register_envs"]


def register_envs() -> None:
    """Register every environment of metafast with gymnasium, under ``metafast/<its id>``.

    Importing metafast and gymnasium, in either order, does it. Gymnasium 1.x reads no entry points, so a program that
    imports nothing of metafast names the module in the id:
    ``gymnasium.make_vec("metafast.envs:metafast/CartPole-v1", num_envs=1024)``.
    Registering twice does nothing.

    Examples
    --------
    >>> import gymnasium
    >>> gymnasium.make_vec("metafast.envs:metafast/CartPole-v1", num_envs=3)
    NativeVectorEnv(metafast/CartPole-v1, num_envs=3)
    """
    for definition in CATALOGUE.values():
        full_id = f"metafast/{definition.env_id}"
        if full_id not in gymnasium.registry:
            gymnasium.register(
                full_id,
                vector_entry_point="metafast.envs:make_vec",
                max_episode_steps=definition.max_episode_steps,
                reward_threshold=definition.reward_threshold,
                kwargs={"env_id": definition.env_id},
            )
