"""No memory at all: what the others are compared with."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_sizes
from .core import CoreConfig, CoreOutput, MemoryCore, Record, TensorState, check_segment, next_time
from .transformer import feed_forward


@dataclass(frozen=True, kw_only=True)
class NoMemoryConfig(CoreConfig):
    """A network of the present step alone."""

    name: ClassVar[str] = "none"
    layers: int = 2
    """Feed-forward halves of a transformer layer, each with a residual."""
    width: int = 64
    """Width of the model (D)."""
    ff_width: int = 128
    """Hidden width of the feed-forward halves."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width", "ff_width")

    def build(self) -> "NoMemory":
        """A new core with these settings."""
        return NoMemory(self)


@dataclass(frozen=True, kw_only=True)
class NoState(TensorState):
    """The clock of every row, and nothing else."""

    time: Int[Tensor, " B"]
    """Steps since the episode began."""


class NoMemory(MemoryCore[NoState]):
    """The feed-forward halves of a transformer, which see the present step alone."""

    def __init__(self, config: NoMemoryConfig) -> None:
        super().__init__()
        self.width = config.width
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.width), feed_forward(config.width, config.ff_width))
            for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width)

    def initial_state(self, batch_size: int) -> NoState:
        """So many rows that have seen nothing."""
        return NoState(time=torch.zeros(batch_size, dtype=torch.int64, device=self.final_norm.weight.device))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: NoState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[NoState]:
        """Read T steps, each by itself."""
        check_segment(self, x, state.time, resets)
        for layer in self.layers:
            x = x + layer(x)
        return CoreOutput(y=self.final_norm(x), state=NoState(time=next_time(state.time, resets)))
