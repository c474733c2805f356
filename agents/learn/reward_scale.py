"""Rewards in units of a typical return, so that one step size and one value head fit tasks of every scale.

Rewards are divided by the running standard deviation of the discounted return, as is common for PPO, but only where
that is above 1: a task whose returns are small keeps its rewards as they are.  A rollout has one scale, which it has
taken part in, so that several processes can agree on it once a rollout.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd

from ... import processes

ADOPTED = 50_000
"""Steps that another training's statistics count for at most: some rollouts of a new task outweigh them."""


class RewardScale:
    """The running scale of the rewards of `num_envs` environments."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self._returns = np.zeros(num_envs)
        self._noted: list[np.ndarray] = []
        """Of the present rollout, the discounted return after each step."""
        self._statistics = RunningMeanStd(shape=())

    @property
    def scale(self) -> float:
        """What rewards are divided by; at least 1."""
        return max(1.0, float(np.sqrt(self._statistics.var)))

    def begin_rollout(self, starts: np.ndarray) -> None:
        """Forget what an unfinished rollout noted; `starts`, bool [B], are rows at the start of an episode."""
        self._noted = []
        self._returns[starts] = 0

    def note(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Take note of one step's rewards, [B]; `dones`, bool [B], says which episodes it ended."""
        self._returns = self._returns * self.gamma + rewards
        self._noted.append(self._returns.copy())
        self._returns[dones] = 0

    def end_rollout(self) -> None:
        """Let the scale follow the returns noted, in all processes."""
        size, mean, var = processes.moments(torch.from_numpy(np.concatenate(self._noted)))
        self._statistics.update_from_moments(mean.numpy(), var.numpy(), size)
        self._noted = []

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
