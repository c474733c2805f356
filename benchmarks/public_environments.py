"""The tasks of public_tasks.py: POPGym, a T-Maze, control without velocities, MiniGrid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class TMaze(gym.Env):
    """The passive T-Maze (Ni et al., 2023): which way to turn at the end is shown at the start alone.

    Actions are left, right, up and down; only going right leads to the junction.  An observation is [the sign at the
    start, whether this is the start, whether this is the junction], the sign being -1 or 1 there and 0 elsewhere.  A
    step that the agent is behind costs 1 / length; turning the right way at the junction, at the last step, earns 1.
    """

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Back to the start, with a new sign."""
        super().reset(seed=seed)
        self._sign, self._place, self._time = self.np_random.choice((-1, 1)), 0, 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One move; the last one is the turn."""
        self._time += 1
        if self._time > self.length:
            turned = {2: 1, 3: -1}.get(int(action), 0)
            return self._seen(), float(self._place == self.length and turned == self._sign), True, False, {}
        self._place = int(np.clip(self._place + {0: -1, 1: 1}.get(int(action), 0), 0, self.length))
        return self._seen(), -float(self._place < self._time) / self.length, False, False, {}

    def _seen(self) -> np.ndarray:
        begins = self._place == 0
        return np.array([self._sign * begins, begins, self._place == self.length], np.float32)


class Kept(gym.ObservationWrapper):
    """Some of an observation's numbers: without the velocities, say."""

    def __init__(self, env: gym.Env, kept: Sequence[int]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        self._kept = list(kept)
        low, high = env.observation_space.low[self._kept], env.observation_space.high[self._kept]
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The numbers kept."""
        return observation[self._kept]


class Flat(gym.ObservationWrapper):
    """A tuple of discrete observations as a vector, since SB3 has no tuples."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Tuple)
        self.observation_space = spaces.MultiDiscrete([part.n for part in env.observation_space])  # pyright: ignore[reportAttributeAccessIssue]  # Discrete

    def observation(self, observation: tuple[int, ...]) -> np.ndarray:
        """The class numbers side by side."""
        return np.array(observation)


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment, how long to learn, and the mean return that counts as learned."""

    make: Callable[[], gym.Env]
    steps: int
    threshold: float


def popgym(name: str) -> gym.Env:
    """An environment of POPGym."""
    import popgym  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]  # registers its environments

    env = gym.make(f"popgym-{name}-v0", disable_env_checker=True)
    return Flat(env) if isinstance(env.observation_space, spaces.Tuple) else env


def minigrid(name: str) -> gym.Env:
    """An environment of MiniGrid, its view alone, as codes."""
    import minigrid  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers its environments
    from minigrid.wrappers import ImgObsWrapper

    return ImgObsWrapper(gym.make(f"MiniGrid-{name}-v0"))


def pixels(name: str) -> gym.Env:
    """The same as a picture of 56 x 56 pixels."""
    from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

    return ImgObsWrapper(RGBImgPartialObsWrapper(gym.make(f"MiniGrid-{name}-v0"), tile_size=8))


def tasks() -> dict[str, Task]:
    """By name."""
    known: dict[str, Task] = {}

    def add(name: str, steps: int, threshold: float, make: Callable[..., gym.Env], *given: Any) -> None:
        known[name] = Task(make=lambda: make(*given), steps=steps, threshold=threshold)

    add("CartPole", 50_000, 450, lambda: Kept(gym.make("CartPole-v1"), [0, 2]))
    add("Pendulum", 60_000, -400, lambda: Kept(gym.make("Pendulum-v1"), [0, 1]))
    add("MountainCarContinuous", 50_000, 80, lambda: Kept(gym.make("MountainCarContinuous-v0"), [0]))
    add("PositionOnlyCartPoleEasy", 60_000, 0.9, popgym, "PositionOnlyCartPoleEasy")
    add("PositionOnlyPendulumEasy", 60_000, 0.8, popgym, "PositionOnlyPendulumEasy")
    for name, steps, threshold in (
        ("RepeatPrevious", 200_000, 0.9),
        ("RepeatFirst", 100_000, 0.9),
        ("CountRecall", 100_000, 0.5),
        ("Autoencode", 100_000, 0.5),
        ("Concentration", 100_000, 0.5),
    ):
        for level in ("Easy", "Medium"):
            add(f"{name}{level}", steps, threshold, popgym, f"{name}{level}")
    for length in (20, 50, 100, 250, 500):
        add(f"TMaze{length}", 100_000 if length <= 100 else 200_000, 0.9, TMaze, length)
    for name in ("MemoryS7", "MemoryS9", "MemoryS13Random", "MemoryS13", "MemoryS11", "RedBlueDoors-8x8"):
        add(name, 200_000, 0.8, minigrid, name)
    add("MemoryS7-pixels", 50_000, 0.8, pixels, "MemoryS7")
    return known
