"""The last observations of an episode as one observation, for algorithms that carry no memory state from step to step.

Replay buffers and minibatches of shuffled steps hold such windows as they hold any observation, so a network that reads
a whole window (`ExpireSpanExtractor`) gives memory to every algorithm of Stable-Baselines3.  What is older than the
window is lost, and every step is computed once for each window that it stands in.

Every part of an observation is stored flat, [length, size]: SB3 takes a part of three dimensions for a picture, would
divide it by 255 and move its axes.
"""

from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ..memory.checks import check_whole

OBSERVATION, ACTION, REWARD, PAST = "observation", "action", "reward", "past"


def leaves(space: spaces.Space, name: str = OBSERVATION) -> Iterator[tuple[str, spaces.Space]]:
    """The parts of an observation space that are no dictionaries, named by their keys: `observation/robot/camera`.

    Raises ValueError for a space that can't be stored as an array of fixed size.
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from leaves(part, f"{name}/{key}")
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield name, space
    else:
        raise ValueError(
            "Expect `observation_space` to be made of Box, Discrete, MultiDiscrete, MultiBinary and Dict, "
            f"actual: {space} at {name}; MiniGrid's missions go with minigrid.wrappers.ImgObsWrapper"
        )


class HistorySpace(spaces.Dict):
    """Windows of the last `length` steps of an episode, the newest last.

    - `observation`, or `observation/KEY` for each part of a dictionary: Box [length, size], each step's part flattened;
      Discrete and MultiDiscrete are whole numbers from 0.
    - `past`: Discrete(length), how many steps before the newest one belong to the episode.  Places before those repeat
      the episode's first step.
    - `action`, `reward`: Box [length, size] and [length, 1], only where `action_space` is given: the action that led to
      each observation (one-hot, bits, or numbers) and the reward that came with it; 0 at an episode's first step.
    """

    def __init__(self, step_space: spaces.Space, length: int, action_space: spaces.Space | None = None) -> None:
        check_whole("length", length, at_least=1)
        self.step_space, self.length, self.action_space = step_space, length, action_space
        parts = list(leaves(step_space))
        windows: dict[str, spaces.Space] = {name: _window(_flat_box(part), length) for name, part in parts}
        if len(windows) < len(parts):
            names = ", ".join(name for name, _ in parts)
            raise ValueError(f"Expect `observation_space` to have no two parts of one name, actual: {names}")
        if action_space is not None:
            windows[ACTION] = _window(_action_box(action_space), length)
            windows[REWARD] = spaces.Box(-np.inf, np.inf, (length, 1), np.float32)
        windows[PAST] = spaces.Discrete(length)
        super().__init__(list(windows.items()))

    def __eq__(self, other: object) -> bool:
        """Whether both hold windows of the same steps."""
        return isinstance(other, HistorySpace) and super().__eq__(other) and self.step_space == other.step_space

    def __repr__(self) -> str:
        """The steps, not the bounds of every place in the windows."""
        return f"HistorySpace({self.step_space}, {self.length}, {self.action_space})"


class HistoryWrapper(gym.Wrapper, RecordConstructorArgs):
    """Gives the last `length` observations of the episode instead of the present one; its space is a `HistorySpace`.

    Works under Monitor, ActionMasker, DummyVecEnv, SubprocVecEnv and `make_vec_env(wrapper_class=HistoryWrapper,
    wrapper_kwargs={"length": 64})`.  An observation that ends an episode is the window of that episode.

    Args:
        env: Any environment with an observation space of Box, Discrete, MultiDiscrete, MultiBinary, or Dict of these.
        length: Steps of a window.
        include_actions: Whether windows also hold previous actions and rewards, which tell apart histories that
            observations alone do not.  MemoryPPO and MemoryA2C see none, so there are none by default.  Rewards are the
            environment's own: VecNormalize outside of this wrapper doesn't scale them.

    Raises ValueError for other observation spaces and for a length below 1, TypeError for one that is no int.
    """

    def __init__(self, env: gym.Env, length: int = 32, include_actions: bool = False) -> None:
        RecordConstructorArgs.__init__(self, length=length, include_actions=include_actions)
        super().__init__(env)
        actions = env.action_space if include_actions else None
        self.observation_space = self._space = HistorySpace(env.observation_space, length, actions)
        self._no_action = None if actions is None else np.zeros_like(_action_box(actions).low)
        self._windows: dict[str, np.ndarray] = {}
        self._past = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; its first window repeats its first observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        parts = self._parts(observation, None, 0.0)
        self._windows = {name: np.repeat(part[None], self._space.length, 0) for name, part in parts}
        self._past = 0
        return self._observation(), info

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step; the window moves on by one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        for name, part in self._parts(observation, action, float(reward)):
            self._windows[name] = np.concatenate([self._windows[name][1:], part[None]])
        self._past = min(self._past + 1, self._space.length - 1)
        return self._observation(), reward, terminated, truncated, info

    def _observation(self) -> dict[str, Any]:
        # Copies: who gets them may write to them.
        return {name: window.copy() for name, window in self._windows.items()} | {PAST: np.int64(self._past)}

    def _parts(self, observation: Any, action: Any, reward: float) -> Iterator[tuple[str, np.ndarray]]:
        yield from _flat_parts(self._space.step_space, observation, OBSERVATION)
        if self._no_action is not None:
            taken = self._no_action if action is None else spaces.flatten(self.env.action_space, action)
            yield ACTION, np.asarray(taken, dtype=self._no_action.dtype)
            yield REWARD, np.array([reward], dtype=np.float32)


def _flat_parts(space: spaces.Space, observation: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The parts of one observation as in `leaves`, each flat, in the number type of its space."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from _flat_parts(part, observation[key], f"{name}/{key}")
    else:
        counted_from = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
        yield name, np.asarray(np.asarray(observation) - counted_from, dtype=space.dtype).reshape(-1)


def _flat_box(space: spaces.Space) -> spaces.Box:
    """The space of one flat part of an observation."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype.type)
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0, int(space.n) - 1, (1,), space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete):
        largest = space.nvec.reshape(-1) - 1
        return spaces.Box(np.zeros_like(largest), largest, dtype=space.dtype.type)
    assert isinstance(space, spaces.MultiBinary)
    return spaces.Box(0, 1, (int(np.prod(space.shape)),), np.int8)


def _action_box(space: spaces.Space) -> spaces.Box:
    """The space of one flat action: numbers as they are, choices one-hot in a byte each; 0 is always inside."""
    flat = spaces.flatten_space(space)
    if not isinstance(flat, spaces.Box):
        raise ValueError(f"Expect `action_space` to have a fixed size where actions are included, actual: {space}")
    kind = np.float32 if isinstance(space, spaces.Box) else np.int8
    return spaces.Box(np.minimum(flat.low, 0).astype(kind), np.maximum(flat.high, 0).astype(kind), dtype=kind)


def _window(box: spaces.Box, length: int) -> spaces.Box:
    low, high = (np.repeat(bound[None], length, 0) for bound in (box.low, box.high))
    return spaces.Box(low, high, dtype=box.dtype.type)
