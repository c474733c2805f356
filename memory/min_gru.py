"""The minimal GRU (Feng et al., 2024), whose gates see the input alone, so that time needs no loop.

h_t = (1 - z_t) h_(t-1) + z_t c_t with z_t = s(W_z x_t) and c_t = W_c x_t (the paper's appendix A.2; its variant in the
logarithm's space keeps c positive).  It stands in the block of a transformer, in place of attention.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_sizes
from .core import CoreConfig, CoreOutput, MemoryCore, Record, TensorState, check_segment, next_time
from .transformer import Block


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(CoreConfig):
    """Shape of the minimal GRU."""

    name: ClassVar[str] = "min-gru"
    layers: int = 2
    """Layers, each with a state of its own."""
    width: int = 64
    """Width of the model and of each state (D)."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width", "ff_width")

    def build(self) -> "MinGRU":
        """A new core with these settings."""
        return MinGRU(self)


@dataclass(frozen=True, kw_only=True)
class MinGRUState(TensorState):
    """h of every layer, and the clock of every row."""

    hidden: Float[Tensor, "B layers D"]
    time: Int[Tensor, " B"]
    """Steps since the episode began."""


def linear_scan(
    keep: Float[Tensor, "B T D"], add: Float[Tensor, "B T D"], first: Float[Tensor, "B D"]
) -> Float[Tensor, "B T D"]:
    """h_t = keep_t * h_(t-1) + add_t from h_0 = first, in log2(T) passes over all steps (Hillis and Steele's scan).

    Each pass joins stretches of twice the length.  Products of `keep` only get smaller, so nothing overflows, and a
    reset is a `keep` of 0.
    """
    add = torch.cat([keep[:, :1] * first.unsqueeze(1) + add[:, :1], add[:, 1:]], 1)
    distance = 1
    while distance < add.shape[1]:
        now = keep[:, distance:]
        add = torch.cat([add[:, :distance], now * add[:, :-distance] + add[:, distance:]], 1)
        keep = torch.cat([keep[:, :distance], now * keep[:, :-distance]], 1)
        distance *= 2
    return add


class MinGRULayer(Block):
    """A minimal GRU, then a feed-forward half."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__(config.width, config.ff_width)
        self.gate_candidate = nn.Linear(config.width, 2 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "B T D"], hidden: Float[Tensor, "B D"], resets: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
        """The layer's output, and h after the last step."""
        gate, candidate = self.gate_candidate(self.norm(x)).chunk(2, -1)
        gate = torch.sigmoid(gate)
        keep = (1 - gate).masked_fill(resets.unsqueeze(2), 0)
        first = hidden.masked_fill(resets[:, :1], 0)  # a reset clears what is not a number, too
        h = linear_scan(keep, gate * candidate, first)
        return self.joined(x, self.output(h)), h[:, -1]


class MinGRU(MemoryCore[MinGRUState]):
    """Layers of minimal GRUs."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.width = config.width
        self.layers = nn.ModuleList(MinGRULayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    def initial_state(self, batch_size: int) -> MinGRUState:
        """Zeros."""
        like = self.final_norm.weight
        return MinGRUState(
            hidden=like.new_zeros(batch_size, len(self.layers), self.width),
            time=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: MinGRUState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[MinGRUState]:
        """Read T steps."""
        check_segment(self, x, state.hidden, resets)
        after = []
        for number, layer in enumerate(self.layers):
            x, hidden = layer(x, state.hidden[:, number], resets)
            after.append(hidden.detach())
        state = MinGRUState(hidden=torch.stack(after, 1), time=next_time(state.time, resets))
        return CoreOutput(y=self.final_norm(x), state=state)
