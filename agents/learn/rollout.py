"""A rollout as whole sequences: preallocated [T, B] tensors in, environment columns out.

A minibatch is a set of environment columns over the whole rollout, with the memory that each had at its start; steps
are never shuffled.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from ... import processes
from ..actions import mask_width
from .losses import gae


@dataclass(frozen=True, kw_only=True)
class SequenceBatch:
    """Some environment columns of a rollout; tensors are [T, B, ...]."""

    observations: Any
    actions: Tensor
    episode_starts: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None
    """Bool [T, B, M] (actions.py); None where actions weren't masked."""
    state: Any
    """The memory before the first step."""


class _TensorBuffer(RolloutBuffer):
    """What SB3's buffer holds as arrays, as tensors [T, B, ...]."""

    observations: Any
    """A tensor, or a dictionary of tensors."""
    actions: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    rewards: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    episode_starts: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    values: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    log_probs: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    advantages: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays
    returns: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]  # tensors where SB3 has arrays


class SequenceRolloutBuffer(_TensorBuffer):
    """`buffer_size` steps (T) of `n_envs` environments (B) on torch tensors."""

    state: Any
    action_masks: Tensor | None

    def reset(self) -> None:
        """Forget the last rollout."""
        shape = (self.buffer_size, self.n_envs)
        if isinstance(self.observation_space, spaces.Dict):
            self.observations = {k: self._empty(shape, space) for k, space in self.observation_space.items()}
        else:
            self.observations = self._empty(shape, self.observation_space)
        self.actions = self._empty(shape, self.action_space)
        if isinstance(self.action_space, spaces.Box):
            # As they were drawn: number types with fewer digits, or none after the point, change their probability.
            self.actions = self.actions.float()
        self.action_masks = None
        self.rewards, self.values, self.log_probs, self.advantages, self.returns = (
            torch.zeros(shape, device=self.device) for _ in range(5)
        )
        self.episode_starts = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self.pos = 0
        self.full = False

    def begin(self, state: Any, masked: bool = False) -> None:
        """Start a rollout with this memory; `masked` makes room for action masks."""
        self.reset()
        self.state = state
        if masked:
            shape = (self.buffer_size, self.n_envs, mask_width(self.action_space))
            self.action_masks = torch.ones(shape, dtype=torch.bool, device=self.device)

    def add(  # pyright: ignore[reportIncompatibleMethodOverride]  # tensors instead of arrays
        self,
        obs: Any,
        action: Tensor,
        reward: Tensor,
        episode_start: Tensor,
        value: Tensor,
        log_prob: Tensor,
        action_masks: Tensor | None = None,
    ) -> None:
        """Store one step of all environments: [B, ...] each."""
        if isinstance(obs, dict):
            for name, store in self.observations.items():
                store[self.pos] = obs[name]
        else:
            self.observations[self.pos] = obs
        self.actions[self.pos] = action
        if self.action_masks is not None and action_masks is not None:
            self.action_masks[self.pos] = action_masks
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value
        self.log_probs[self.pos] = log_prob
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def largest(self) -> str:
        """The largest numbers of the rollout, for an error that asks where they come from."""
        named = self.observations if isinstance(self.observations, dict) else {"observations": self.observations}
        parts = named | {"rewards (scaled)": self.rewards, "values": self.values}
        return ", ".join(f"{name} up to {part.double().abs().max().item():.3g}" for name, part in parts.items())

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Advantages by GAE, and returns as advantage + value."""
        last_dones = torch.as_tensor(dones, dtype=torch.bool, device=self.device)
        self.advantages = gae(
            self.rewards, self.values, last_values, self.episode_starts, last_dones, self.gamma, self.gae_lambda
        )
        self.returns = self.advantages + self.values

    def get(  # pyright: ignore[reportIncompatibleMethodOverride]  # whole sequences
        self, batch_size: int | None = None
    ) -> Generator[SequenceBatch, None, None]:
        """The rollout once, in random groups of columns.

        `batch_size` counts steps of all processes, all of them by default; where it does not divide the columns, no
        group is larger.  Each process has as many groups, of its own columns.
        """
        everywhere = self.n_envs * processes.count()
        columns = everywhere if batch_size is None else max(1, batch_size // self.buffer_size)
        groups = min(math.ceil(everywhere / columns), self.n_envs)
        for index in torch.randperm(self.n_envs).to(self.device).tensor_split(groups):
            obs = self.observations
            yield SequenceBatch(
                observations={k: v[:, index] for k, v in obs.items()} if isinstance(obs, dict) else obs[:, index],
                actions=self.actions[:, index],
                episode_starts=self.episode_starts[:, index],
                old_values=self.values[:, index],
                old_log_prob=self.log_probs[:, index],
                advantages=self.advantages[:, index],
                returns=self.returns[:, index],
                action_masks=None if self.action_masks is None else self.action_masks[:, index],
                state=self.state.rows(index),
            )

    def flat_observations(self) -> Any:
        """All observations, [T * B, ...], or a dictionary of them."""
        obs = self.observations
        return {k: v.flatten(0, 1) for k, v in obs.items()} if isinstance(obs, dict) else obs.flatten(0, 1)

    def _empty(self, shape: tuple[int, int], space: spaces.Space) -> Tensor:
        assert space.shape is not None and space.dtype is not None
        dtype = torch.from_numpy(np.zeros(0, dtype=space.dtype)).dtype
        return torch.zeros((*shape, *space.shape), dtype=dtype, device=self.device)
