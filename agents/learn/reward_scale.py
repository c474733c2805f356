"""Rewards in units of a typical return, so that one step size and one value head fit tasks of every scale.

Rewards are divided by the running standard deviation of the discounted return, as is common for PPO, but only where
that is above 1: a task whose returns are small keeps its rewards as they are.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

ADOPTED = 50_000
"""Steps that another training's statistics count for at most: some rollouts of a new task outweigh them."""


class RewardScale:
    """The running scale of the rewards of `num_envs` environments."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self._returns = np.zeros(num_envs)
        self._statistics = RunningMeanStd(shape=())

    @property
    def scale(self) -> float:
        """What rewards are divided by; at least 1."""
        return max(1.0, float(np.sqrt(self._statistics.var)))

    def scaled(self, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        """Take note of one step's rewards and return them scaled, [B]; `dones` says which episodes it ended."""
        self._returns = self._returns * self.gamma + rewards
        self._statistics.update(self._returns)
        self._returns[dones] = 0
        return rewards / self.scale

    def begin_episodes(self, rows: np.ndarray) -> None:
        """The rows, bool [B], are at the start of an episode, whether or not a step ended the one before."""
        self._returns[rows] = 0

    def adopt(self, state: dict[str, Any]) -> None:
        """Begin with the scale of another training, in whose units its values are; new episodes soon change it."""
        self._statistics.mean, self._statistics.var = np.asarray(state["mean"]), np.asarray(state["var"])
        self._statistics.count = min(state["count"], ADOPTED)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON knows it."""
        statistics = {name: float(getattr(self._statistics, name)) for name in ("mean", "var", "count")}
        return {"returns": self._returns.tolist(), **statistics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned; other environments than those before begin anew."""
        if len(state["returns"]) == len(self._returns):
            self._returns = np.array(state["returns"], dtype=np.float64)
        self._statistics.mean, self._statistics.var = np.asarray(state["mean"]), np.asarray(state["var"])
        self._statistics.count = state["count"]
