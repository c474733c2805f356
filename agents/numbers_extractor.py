"""The features extractor for numbers, in units of their running statistics.

The statistics are buffers: a checkpoint holds them, and `forward` never changes them.  MemoryPPO and MemoryA2C call
`observe` with each rollout once they have learned from it, so that what collected a rollout also learns from it.
"""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor

from .. import processes

MOST_COUNTED = 1_000_000
"""Observations that the running statistics count for at most: later ones then outweigh the oldest."""
FARTHEST = 10.0
"""Standard deviations from the mean at which numbers are clipped."""


class NumbersExtractor(FlattenExtractor):
    """Numbers, flattened: those of a Box in units of their running standard deviation from their running mean.

    An observation x becomes clamp((x - mean) / sqrt(max(var, 1e-8)), -10, 10).  Until `observe` has been called, x is
    left as it is; `forward` never changes the statistics.  Class numbers, which are one-hot here, stay as they are.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space)
        self._features_dim = int(self._features_dim)  # NumPy's of a MultiDiscrete, which torch's LSTM refuses
        self.measures = isinstance(observation_space, spaces.Box)
        if self.measures:
            for name, value in (("mean", 0.0), ("var", 1.0)):
                self.register_buffer(name, torch.full((self._features_dim,), value))
            self.register_buffer("count", torch.zeros(()))

    def forward(self, observations: Tensor) -> Tensor:
        """Numbers [N, ...] to features [N, features_dim]."""
        numbers = super().forward(observations)
        if not self.measures:
            return numbers
        farthest = torch.where(self.count > 0, FARTHEST, torch.inf)
        return ((numbers - self.mean) * torch.rsqrt(self.var.clamp(min=1e-8))).clamp(-farthest, farthest)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch hands all on by position
        """As torch's; weights from before there were statistics read numbers as they are."""
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, torch.full_like(buffer, 1.0 if name == "var" else 0.0))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def observe(self, observations: Tensor) -> None:
        """Take the mean and the variance of a Box's numbers [N, ...], in all processes, into the running ones."""
        size, mean, var = processes.moments(super().forward(observations))
        share = size / (self.count.double() + size)
        apart = mean - self.mean
        self.var.copy_((1 - share) * self.var + share * var + share * (1 - share) * apart**2)
        self.mean.copy_(self.mean + share * apart)
        self.count.copy_((self.count + size).clamp(max=MOST_COUNTED))
