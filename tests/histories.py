"""Small environments for tests of windows of observations."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from expirespan.agents import HistoryWrapper
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor

SMALL: dict[str, Any] = {"width": 16, "ff_width": 16, "max_span": 40.0, "initial_span": 0.1, "ramp": 4.0}
"""Memories begin to fade after 4 steps and are gone after 8."""
VECTOR = spaces.Box(-1, 1, (3,), np.float32)


class Counter(gym.Env):
    """Shows the number of the episode and the step in it; reward is ten times the step; truncated after 3 steps."""

    observation_space = spaces.Box(0, 100, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(3, start=5)

    def __init__(self) -> None:
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return np.array([self.episode, 0], dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        seen = np.array([self.episode, self.steps], dtype=np.float32)
        return seen, 10.0 * self.steps, False, self.steps == 3, {}


class Noise(gym.Env):
    """Random observations of any space, for 11 steps an episode."""

    def __init__(self, space: spaces.Space, actions: spaces.Space | None = None) -> None:
        self.observation_space, self.action_space = space, actions or spaces.Discrete(3)
        space.seed(7)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 11, {}


class Recall(gym.Env):
    """A cue of -1 or 1 at the first of four steps; 1 is earned by the action of that sign at the last one.

    Chance is 0.5.  Masked: only the first two of four discrete actions are ever legal.
    """

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, kind: str = "discrete") -> None:
        self.action_space: spaces.Space = spaces.Discrete({"discrete": 2, "masked": 4}.get(kind, 2))
        if kind == "continuous":
            self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.cue = 0, 2 * int(self.np_random.integers(2)) - 1
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        side = float(action[0]) if isinstance(self.action_space, spaces.Box) else 2 * int(action) - 1
        ended = self.steps == 4
        return self._seen(), float(ended and side * self.cue > 0), ended, False, {}

    def action_masks(self) -> np.ndarray:
        """Which actions are legal."""
        return np.arange(4) < 2

    def _seen(self) -> np.ndarray:
        return np.array([self.cue * (self.steps == 0), self.steps == 0, self.steps == 3], dtype=np.float32)


def played(env: HistoryWrapper) -> list[dict[str, Any]]:
    """All windows of one episode."""
    env.action_space.seed(3)
    windows, ended = [env.reset(seed=1)[0]], False
    while not ended:
        window, _, terminated, truncated, _ = env.step(env.action_space.sample())
        windows.append(window)
        ended = terminated or truncated
    return windows


def as_sb3_gives(env: HistoryWrapper, windows: list[dict[str, Any]]) -> dict[str, Tensor]:
    stacked = {name: torch.as_tensor(np.stack([window[name] for window in windows])) for name in windows[0]}
    given = preprocess_obs(stacked, env.observation_space)
    assert isinstance(given, dict)
    return given
