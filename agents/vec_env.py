"""Any Gymnasium VectorEnv as a Stable-Baselines3 VecEnv.

SB3 expects that a finished row already shows its next episode and that its info keeps the last observation of the
finished one.  A VectorEnv with same-step autoreset does just that, and one without autoreset is reset here; next-step
autoreset inserts a step whose action is ignored, which would be learned from, so it is refused.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecTransposeImage

from ..envs import make_batched
from .encoders import is_minigrid_image


class GymnasiumVecEnv(VecEnv):
    """An SB3 VecEnv over a Gymnasium VectorEnv.

    Raises ValueError where the autoreset mode of the VectorEnv is next-step or unknown.
    """

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise ValueError(
                "Expect `env` to have same-step or disabled autoreset, actual: "
                f"{getattr(mode, 'value', mode)}; make_vec takes vector_kwargs={{'autoreset_mode': 'SameStep'}}"
            )
        self.envs = env
        self.autoreset = mode
        self.actions = np.zeros(0)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Begin new episodes in all rows, with the seeds given to `seed` if any."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, infos = self.envs.reset(seed=seeds)  # pyright: ignore[reportArgumentType]  # one a row works too
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        return _copied(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions of the coming step."""
        self.actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all rows; `terminal_observation` and `TimeLimit.truncated` stand in the infos of finished ones."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self.actions)
        done = np.logical_or(terminated, truncated)
        split = self._split({name: value for name, value in infos.items() if not name.lstrip("_").startswith("final_")})
        if done.any():
            finals, final_infos = infos.get("final_obs"), infos.get("final_info", {})
            endings, begun = self._split(final_infos), split
            if self.autoreset is AutoresetMode.DISABLED:
                finals = {row: _copied(observations, row) for row in np.flatnonzero(done).tolist()}
                observations, reset_infos = self.envs.reset(options={"reset_mask": done})
                endings, begun = split, self._split(reset_infos)
            assert finals is not None  # same-step autoreset keeps them
            for row in np.flatnonzero(done).tolist():
                self.reset_infos[row] = begun[row]
                split[row] = endings[row] | {
                    "terminal_observation": finals[row],
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                }
        return _copied(observations), np.asarray(rewards, dtype=np.float32), done, split

    def close(self) -> None:
        """Close the VectorEnv."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the VectorEnv, once a row asked for."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set the attribute on the VectorEnv, for all rows."""
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call the method of the VectorEnv once; its result, once a row asked for."""
        result = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """False: the rows are not environments of their own."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[Any]:
        """The pictures that the VectorEnv renders, one a row."""
        images = self.envs.render()
        return list(images) if images is not None else [None] * self.num_envs

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's dictionary of arrays as one dictionary a row."""
        split: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for name, values in infos.items():
            if name.startswith("_"):
                continue
            present = infos.get(f"_{name}")
            if isinstance(values, dict):
                values = self._split(values)
            for row, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
                if present is None or present[row]:
                    split[row][name] = value
        return split


def _copied(observations: Any, rows: int | slice = slice(None)) -> Any:
    """A copy of some rows: a VectorEnv may write the next step's observations into the same arrays."""
    if isinstance(observations, dict):
        return {name: value[rows].copy() for name, value in observations.items()}
    return observations[rows].copy()


def as_vec_env(env: Any) -> Any:
    """A Gymnasium VectorEnv, or a single environment by its id, as a VecEnv that reports its episodes.

    A single MiniGrid environment's codes stay as they are, where SB3 would take them for pixels and swap their axes.
    Anything else is left to SB3.

    Raises ValueError where the observations hold MiniGrid's mission, which is text.
    """
    if isinstance(env, str):
        env = make_batched(env, 1)
    if isinstance(env, gym.vector.VectorEnv):
        return VecMonitor(GymnasiumVecEnv(env))
    if isinstance(env, gym.Env):
        if isinstance(env.observation_space, spaces.Dict) and "mission" in env.observation_space.spaces:
            raise ValueError(
                "Expect `env` to have observations of numbers, actual: a dictionary with MiniGrid's mission; "
                "wrap it in minigrid.wrappers.ImgObsWrapper"
            )
        if is_minigrid_image(env.observation_space):
            return DummyVecEnv([lambda: env if is_wrapped(env, Monitor) else Monitor(env)])
    return env


def seen_by_policies(space: spaces.Space) -> spaces.Space:
    """The space of observations as SB3's policies get them: pictures with their channels first."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: seen_by_policies(part) for name, part in space.spaces.items()})
    if not isinstance(space, spaces.Box) or is_minigrid_image(space):
        return space
    box: spaces.Box = space  # of any number type
    if is_image_space(box) and not is_image_space_channels_first(box):
        return VecTransposeImage.transpose_space(box)
    return box


def environment_state(env: VecEnv) -> dict[str, Any] | None:
    """Where every row's episode stands, as {"arrays": ..., "generators": ...}; None where the rows can't tell.

    The environments of this project can; most others keep state that nothing outside can restore.
    """
    monitor, inner = _monitor_and_rows(env)
    if inner is None or monitor is None:
        return None
    state = inner.state_dict()
    counted = {"episode_returns": monitor.episode_returns.copy(), "episode_lengths": monitor.episode_lengths.copy()}
    return {"arrays": state["arrays"] | counted, "generators": state["generators"]}


def restore_environment_state(env: VecEnv, state: dict[str, Any]) -> None:
    """Continue the episodes that `environment_state` described."""
    monitor, inner = _monitor_and_rows(env)
    if inner is None or monitor is None:
        raise ValueError(f"Expect `env` to be able to restore its state, actual: {env}")
    arrays = dict(state["arrays"])
    monitor.episode_returns, monitor.episode_lengths = arrays.pop("episode_returns"), arrays.pop("episode_lengths")
    inner.load_state_dict({"arrays": arrays, "generators": state["generators"]})


def _monitor_and_rows(env: VecEnv) -> tuple[VecMonitor | None, Any]:
    monitor = None
    while isinstance(env, VecEnvWrapper):
        monitor = env if isinstance(env, VecMonitor) else monitor
        env = env.venv
    rows = env.envs.unwrapped if isinstance(env, GymnasiumVecEnv) else None
    return monitor, rows if hasattr(rows, "load_state_dict") else None
