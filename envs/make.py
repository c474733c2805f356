"""Environments by id, as the scripts need them: many rows for training, one that can be drawn for looking at."""

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import ImgObsWrapper


def make_single(
    env_id: str, env_args: dict[str, Any] | None = None, view_size: int | None = None, render_mode: str | None = None
) -> gym.Env:
    """One environment.  MiniGrid's dictionaries are reduced to their images; `view_size` is that of MiniGrid's view.

    Raises ValueError where `env_id` isn't registered, does not take an argument, or has no view to set the size of.
    """
    arguments = dict(env_args or {})
    if view_size is not None:
        arguments[_view_argument(env_id, view_size)] = view_size
    try:
        env = gym.make(env_id, render_mode=render_mode, **arguments)
    except gym.error.Error as error:
        raise ValueError(
            f"Expect `env` to be the id of a registered environment, actual: {env_id!r} ({error})"
        ) from error
    except TypeError as error:
        raise ValueError(f"Expect `env_args` to be arguments of {env_id}, actual: {arguments} ({error})") from error
    image_and_mission = isinstance(env.observation_space, spaces.Dict) and isinstance(env.unwrapped, MiniGridEnv)
    return ImgObsWrapper(env) if image_and_mission else env


def make_viewed(env_id: str, env_args: dict[str, Any] | None = None, view_size: int | None = None) -> gym.Env:
    """One environment that draws itself into an array, if it can; raises as `make_single` does."""
    env = make_single(env_id, env_args, view_size)
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        return env
    env.close()
    return make_single(env_id, env_args, view_size, render_mode="rgb_array")


def make_batched(
    env_id: str, num_envs: int, env_args: dict[str, Any] | None = None, view_size: int | None = None
) -> VectorEnv:
    """`num_envs` environments behind a VectorEnv with same-step autoreset; raises as `make_single` does.

    Environments with a batched form of their own use it, others are stepped one after another.
    """
    make_single(env_id, env_args, view_size).close()  # all its checks, before anything is built
    if _is_ours(env_id):
        arguments: dict[str, Any] = dict(env_args or {}) | ({} if view_size is None else {"view_size": view_size})
        return gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **arguments)
    factories = [lambda: make_single(env_id, env_args, view_size)] * num_envs
    return SyncVectorEnv(factories, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def _view_argument(env_id: str, view_size: int) -> str:
    """What the environment calls the size of its view.  Raises ValueError where it has none, or none of this size."""
    if _is_ours(env_id):
        return "view_size"
    plain = make_single(env_id)
    plain.close()
    if not isinstance(plain.unwrapped, MiniGridEnv):
        raise ValueError(
            f"Expect `view_size` to be None for {env_id}, which is no MiniGrid environment, actual: {view_size}"
        )
    if view_size < 3 or view_size % 2 == 0:
        raise ValueError(f"Expect `view_size` to be odd and at least 3, actual: {view_size}")
    return "agent_view_size"


def _is_ours(env_id: str) -> bool:
    return env_id.rsplit(":")[-1].startswith("expirespan/")
