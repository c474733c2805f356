"""Any Gymnasium VectorEnv as a Stable-Baselines3 VecEnv.

SB3 expects that a finished row already shows its next episode and that its info keeps the last observation of the
finished one.  A VectorEnv with same-step autoreset does just that, and one without autoreset is reset here; next-step
autoreset inserts a step whose action is ignored, which would be learned from, so it is refused.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv


class GymnasiumVecEnv(VecEnv):
    """An SB3 VecEnv over a Gymnasium VectorEnv.

    `get_attr`, `set_attr` and `env_method` reach the environments behind Gymnasium's SyncVectorEnv and AsyncVectorEnv;
    of a VectorEnv that steps its rows itself they reach the VectorEnv, once for all rows.

    Raises ValueError where the autoreset mode of the VectorEnv is next-step or unknown.
    """

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise ValueError(
                f"Expect `env` to have same-step or disabled autoreset, actual: {getattr(mode, 'value', mode)}; "
                "make it by gymnasium.make_vec(id, num_envs=..., vectorization_mode='sync', "
                "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP})"
            )
        self.vector_env = env
        self.autoreset = mode
        self.actions = np.zeros(0)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    @property
    def envs(self) -> Sequence[gym.Env]:
        """The environments behind a SyncVectorEnv.  Raises AttributeError where there are none in this process."""
        base = self.vector_env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            raise AttributeError(f"{base} has no environments of its own in this process; see `vector_env`")
        return base.envs

    @property
    def spec(self) -> Any:
        """What `gymnasium.make_vec` made the VectorEnv from; None where it was made in another way."""
        return self.vector_env.spec

    def reset(self) -> Any:
        """Begin new episodes in all rows, with the seeds and options given to `seed` and `set_options` if any."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._options[0] or None
        if any((other or None) != options for other in self._options):
            raise ValueError(f"Expect `options` to be the same for all rows of a VectorEnv, actual: {self._options}")
        observations, infos = self.vector_env.reset(
            seed=seeds,  # pyright: ignore[reportArgumentType]  # one a row works too
            options=options,
        )
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return _copied(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions of the coming step."""
        self.actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all rows; `terminal_observation` and `TimeLimit.truncated` stand in the infos of finished ones."""
        observations, rewards, terminated, truncated, infos = self.vector_env.step(self.actions)
        done = np.logical_or(terminated, truncated)
        split = self._split({name: value for name, value in infos.items() if not name.lstrip("_").startswith("final_")})
        if done.any():
            finals, final_infos = infos.get("final_obs"), infos.get("final_info", {})
            endings, begun = self._split(final_infos), split
            if self.autoreset is AutoresetMode.DISABLED:
                finals = {row: _copied(observations, row) for row in np.flatnonzero(done).tolist()}
                observations, reset_infos = self.vector_env.reset(options={"reset_mask": done})
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
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the environment of each row asked for.  Raises AttributeError where one hasn't got it."""
        base, rows = self.vector_env.unwrapped, self._get_indices(indices)
        if isinstance(base, SyncVectorEnv):
            return [base.envs[row].get_wrapper_attr(attr_name) for row in rows]
        if isinstance(base, AsyncVectorEnv):
            self._check_attr(attr_name)
            values = base.get_attr(attr_name)
            return [values[row] for row in rows]
        return [getattr(self._owner(attr_name), attr_name)] * len(list(rows))

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments of all rows have the attribute."""
        base = self.vector_env.unwrapped
        if isinstance(base, AsyncVectorEnv):
            return all(base.call("has_wrapper_attr", attr_name))
        return super().has_attr(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set the attribute in the environment of each row asked for, in the innermost wrapper that has it.

        Raises ValueError where a VectorEnv that steps its rows itself is asked to change some rows alone.
        """
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            for row in rows:
                base.envs[row].set_wrapper_attr(attr_name, value)
        elif isinstance(base, AsyncVectorEnv):
            before = [None] * self.num_envs if len(rows) == self.num_envs else self.get_attr(attr_name)
            base.set_attr(attr_name, [value if row in rows else old for row, old in enumerate(before)])
        else:
            self._check_all_rows(rows, attr_name)
            owner = self._owner(attr_name)
            setattr(owner, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the environment of each row asked for.

        A VectorEnv that steps its rows itself is called once; what it returns is taken row by row where it is an array
        or a list with an entry a row, and otherwise returned once a row.

        Raises ValueError where rows can't be called alone.
        """
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            return [base.envs[row].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for row in rows]
        self._check_all_rows(rows, method_name)
        if isinstance(base, AsyncVectorEnv):
            self._check_attr(method_name)
            return list(base.call(method_name, *method_args, **method_kwargs))
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        by_row = isinstance(result, np.ndarray | list | tuple) and len(result) == self.num_envs
        return list(result) if by_row else [result] * self.num_envs

    def _check_attr(self, name: str) -> None:
        """Raise AttributeError where the environments of an AsyncVectorEnv have no such attribute.

        Asking its workers for one that isn't there would end them.
        """
        if not self.has_attr(name):
            raise AttributeError(f"the environments have no attribute {name!r}")

    def _check_all_rows(self, rows: Sequence[int], name: str) -> None:
        if len(rows) != self.num_envs:
            raise ValueError(f"Expect `indices` to be None for {name!r} of {self.vector_env}, actual: {list(rows)}")

    def _owner(self, name: str) -> Any:
        """The VectorEnv, or what it steps (its `world`), whichever has the attribute."""
        base: Any = self.vector_env
        world = getattr(base.unwrapped, "world", None)
        if not hasattr(base, name) and hasattr(world, name):
            return world
        if not hasattr(base, name):
            known = [known for known in dir(world if world is not None else base) if not known.startswith("_")]
            near = difflib.get_close_matches(name, known, 1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"{base} has no attribute {name!r}{hint}")
        return base

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether the environment of each row asked for is in such a wrapper."""
        base, rows = self.vector_env.unwrapped, self._get_indices(indices)
        if isinstance(base, SyncVectorEnv):
            return [is_wrapped(base.envs[row], wrapper_class) for row in rows]
        if isinstance(base, AsyncVectorEnv):
            name = f"{wrapper_class.__module__}:{wrapper_class.__name__}"
            specs = base.get_attr("spec")
            return [any(name == w.entry_point for w in getattr(specs[row], "additional_wrappers", ())) for row in rows]
        return [False] * len(list(rows))

    def get_images(self) -> Sequence[Any]:
        """The pictures that the VectorEnv renders, one a row."""
        images = self.vector_env.render()
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
