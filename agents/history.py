"""The last observations of an episode as one observation, for algorithms that carry no memory state from step to step.

Replay buffers and minibatches of shuffled steps hold such windows as they hold any observation, so a network that reads
a whole window (`ExpireSpanExtractor`) gives memory to every algorithm of Stable-Baselines3.  What is older than the
window is lost, and every step is computed once for each window that it stands in.

Every part of an observation is stored flat, [length, size]: SB3 takes a part of three dimensions for a picture, would
divide it by 255 and move its axes.
"""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import DummyVecEnv

from ..checks import check_whole
from .observations import Kinds, check_kinds, check_observation_space, kinds_of

OBSERVATION, ACTION, REWARD, PAST = "observation", "action", "reward", "past"


def named_parts(observation: Any) -> dict[str, Any]:
    """An observation or its space by the names in a window: `observation`, or `observation/KEY` for each part."""
    if isinstance(observation, dict | spaces.Dict):
        return {f"{OBSERVATION}/{key}": part for key, part in observation.items()}
    return {OBSERVATION: observation}


class HistorySpace(spaces.Dict):
    """Windows of the last `length` steps of an episode, the newest last.

    - `observation`, or `observation/KEY` for each part of a dictionary: Box [length, size], each step's part flattened.
    - `past`: Discrete(length), how many steps before the newest one belong to the episode.  Places before those repeat
      the episode's first step.
    - `action`, `reward`: Box [length, size] and [length, 1], only where `action_space` is given: the action that led to
      each observation (one-hot, bits, or numbers) and the reward that came with it; 0 at an episode's first step.
    """

    def __init__(
        self, step_space: spaces.Space, length: int, kinds: Kinds, action_space: spaces.Space | None = None
    ) -> None:
        check_whole("length", length, at_least=1)
        check_observation_space(step_space)
        self.step_space, self.length, self.action_space = step_space, length, action_space
        self.kinds: Kinds = check_kinds(kinds, step_space)
        """What the observations of a step are."""
        windows: list[tuple[str, spaces.Space]]
        windows = [(name, _window(_flat_box(part), length)) for name, part in named_parts(step_space).items()]
        if action_space is not None:
            windows.append((ACTION, _window(_action_box(action_space), length)))
            windows.append((REWARD, spaces.Box(-np.inf, np.inf, (length, 1), np.float32)))
        super().__init__([*windows, (PAST, spaces.Discrete(length))])

    def __eq__(self, other: object) -> bool:
        """Whether both hold windows of the same steps."""
        if not isinstance(other, HistorySpace):
            return False
        return super().__eq__(other) and self.step_space == other.step_space and self.kinds == other.kinds

    def __repr__(self) -> str:
        """The steps, not the bounds of every place in the windows."""
        return f"HistorySpace({self.step_space}, {self.length}, {self.kinds!r}, {self.action_space})"


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
        observations: What the observations are, as for MemoryPPO's policy; the environment is asked where None.

    Raises ValueError for other observation spaces, for `observations` that can't be those of the space, and for a
    length below 1; TypeError for one that is no int.
    """

    def __init__(
        self, env: gym.Env, length: int = 32, include_actions: bool = False, observations: Kinds | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, length=length, include_actions=include_actions, observations=observations)
        super().__init__(env)
        check_observation_space(env.observation_space)
        kinds = kinds_of(DummyVecEnv([lambda: env])) if observations is None else observations
        actions = env.action_space if include_actions else None
        self.observation_space = self._space = HistorySpace(env.observation_space, length, kinds, actions)
        self._no_action = None if actions is None else np.zeros_like(_action_box(actions).low)
        self._windows: dict[str, np.ndarray] = {}
        self._past = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; its first window repeats its first observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        parts = self._parts(observation, None, 0.0)
        self._windows = {name: np.repeat(part[None], self._space.length, 0) for name, part in parts.items()}
        self._past = 0
        return self._observation(), info

    def step(self, action: Any) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step; the window moves on by one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        for name, part in self._parts(observation, action, float(reward)).items():
            self._windows[name] = np.concatenate([self._windows[name][1:], part[None]])
        self._past = min(self._past + 1, self._space.length - 1)
        return self._observation(), reward, terminated, truncated, info

    def _observation(self) -> dict[str, Any]:
        # Copies: who gets them may write to them.
        return {name: window.copy() for name, window in self._windows.items()} | {PAST: np.int64(self._past)}

    def _parts(self, observation: Any, action: Any, reward: float) -> dict[str, np.ndarray]:
        """One step of each window, flat."""
        space, seen = self._space, named_parts(observation)
        parts = {
            name: np.asarray(seen[name], dtype=part.dtype).reshape(-1)
            for name, part in named_parts(space.step_space).items()
        }
        if self._no_action is not None:
            taken = self._no_action if action is None else spaces.flatten(self.env.action_space, action)
            parts[ACTION] = np.asarray(taken, dtype=self._no_action.dtype)
            parts[REWARD] = np.array([reward], dtype=np.float32)
        return parts


def _flat_box(space: spaces.Space) -> spaces.Box:
    """The space of one flat part of an observation."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype.type)
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return spaces.Box(first, first + int(space.n) - 1, (1,), space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.Box(space.start, space.start + space.nvec - 1, dtype=space.dtype.type)
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
