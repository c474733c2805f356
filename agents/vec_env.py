"""Environments of every kind as a Stable-Baselines3 VecEnv, with their pictures' channels first, and their states."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecMonitor, VecTransposeImage

from ..envs import make_batched, make_single
from .gymnasium_vec_env import GymnasiumVecEnv
from .observations import check_observation_space, kinds_of

STATELESS = (VecMonitor, VecTransposeImage, VecCheckNan)
"""Wrappers that keep nothing of an episode, VecMonitor's counts apart, which are stored."""


class EpisodeMonitor(VecMonitor):
    """SB3's VecMonitor, which can be copied and pickled with the model."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "class_attributes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.class_attributes = dict(inspect.getmembers(type(self)))


def as_vec_env(env: Any, kinds: Any = None) -> VecEnv:
    """An environment of any kind as a VecEnv that reports its episodes.

    Args:
        env: A Gymnasium environment or its id, a VecEnv, or a Gymnasium VectorEnv.
        kinds: What the observations are (observations.py); the environment is asked where None.

    Pictures get their channels first, as torch's convolutions want them.

    Raises ValueError where the observations are of a type that no network reads.
    """
    if isinstance(env, str):
        env = _by_id(env)
    if isinstance(env, gym.vector.VectorEnv):
        env = EpisodeMonitor(GymnasiumVecEnv(env))
    if isinstance(env, gym.Env):
        monitored = env if is_wrapped(env, Monitor) else Monitor(env)
        check_observation_space(env.observation_space)
        env = DummyVecEnv([lambda: monitored])
    if not isinstance(env, VecEnv):
        raise TypeError(
            f"Expect `env` to be a Gymnasium environment or its id, a VecEnv of SB3, or a VectorEnv, actual: {env!r}"
        )
    check_observation_space(env.observation_space)
    return transposed(env, kinds_of(env) if kinds is None else kinds)


def _by_id(env_id: str) -> VecEnv:
    """One environment by its id: with SB3's own DummyVecEnv, or batched where this project has it so."""
    vector = make_batched(env_id, 1)
    if not isinstance(vector, SyncVectorEnv):
        return EpisodeMonitor(GymnasiumVecEnv(vector))
    vector.close()
    return DummyVecEnv([partial(_monitored, env_id)])


def _monitored(env_id: str) -> gym.Env:
    return Monitor(make_single(env_id))


class _Transposed(VecTransposeImage):
    """SB3's, for a dictionary in which some parts only look like pictures."""

    def __init__(self, venv: VecEnv, keys: Sequence[str]) -> None:
        assert isinstance(venv.observation_space, spaces.Dict)
        super().__init__(venv, skip=True)
        self.skip, self.image_space_keys = False, list(keys)
        parts = venv.observation_space.spaces
        seen = [(k, self.transpose_space(v, k) if k in keys else v) for k, v in parts.items()]  # pyright: ignore[reportArgumentType]  # Boxes
        self.observation_space = spaces.Dict(seen)


def transposed(env: VecEnv, kinds: Any) -> VecEnv:
    """The VecEnv with the channels of its pictures first."""
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        keys = [name for name, part in space.spaces.items() if _channels_last(part, _part(kinds, name))]
        return _Transposed(env, keys) if keys else env
    return VecTransposeImage(env) if _channels_last(space, kinds) else env


def _part(kinds: Any, name: str) -> Any:
    """The kind of a part of a dictionary; None where the kinds are those of another space."""
    return kinds.get(name) if isinstance(kinds, dict) else None


def _channels_last(space: spaces.Space, kind: Any) -> bool:
    picture = isinstance(space, spaces.Box) and kind == "picture" and is_image_space(space)
    return picture and not is_image_space_channels_first(space)  # pyright: ignore[reportArgumentType]  # a Box


def seen_by_policies(space: spaces.Space, kinds: Any) -> spaces.Space:
    """The space of observations as policies get them: pictures with their channels first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, seen_by_policies(part, _part(kinds, name))) for name, part in space.spaces.items()])
    return VecTransposeImage.transpose_space(space) if _channels_last(space, kinds) else space  # pyright: ignore[reportArgumentType]  # a Box


def environment_state(env: VecEnv) -> dict[str, Any] | None:
    """Where every row's episode stands, as {"arrays": ..., "generators": ...}; None where the rows can't tell.

    The environments of this project can; others are played again (envs/replay.py).  Wrappers such as VecFrameStack and
    VecNormalize, and VecEnvs of others, keep state that nothing outside can restore.
    """
    monitor, inner = _monitor_and_rows(env)
    if inner is None or monitor is None:
        return None
    if (state := inner.state_dict()) is None:
        return None
    counted = {"episode_returns": monitor.episode_returns.copy(), "episode_lengths": monitor.episode_lengths.copy()}
    return {"arrays": state["arrays"] | counted, "generators": state["generators"]}


def restore_environment_state(env: VecEnv, state: dict[str, Any]) -> None:
    """Continue the episodes that `environment_state` described.

    Raises ValueError, and changes nothing, where the environment can't or the state is another one's.
    """
    monitor, inner = _monitor_and_rows(env)
    if inner is None or monitor is None:
        raise ValueError(f"Expect `env` to be able to restore its state, actual: {env}")
    arrays = dict(state["arrays"])
    returns, lengths = arrays.pop("episode_returns"), arrays.pop("episode_lengths")
    for stored, own in ((returns, monitor.episode_returns), (lengths, monitor.episode_lengths)):
        if (stored.dtype, stored.shape) != (own.dtype, own.shape) or (lengths < 0).any():
            raise ValueError(f"Expect returns and lengths of {env.num_envs} episodes, actual: {returns}, {lengths}")
    inner.load_state_dict({"arrays": arrays, "generators": state["generators"]})
    monitor.episode_returns, monitor.episode_lengths = returns, lengths


def _monitor_and_rows(env: VecEnv) -> tuple[VecMonitor | None, Any]:
    monitor = None
    while isinstance(env, STATELESS):
        monitor = env if isinstance(env, VecMonitor) else monitor
        env = env.venv
    rows = env.vector_env if isinstance(env, GymnasiumVecEnv) else None
    if rows is not None and rows is not rows.unwrapped:
        rows = None
    return monitor, rows if hasattr(rows, "load_state_dict") else None
