"""Gated DeltaNet (Yang et al., 2025): a matrix for each head, written to by the delta rule, which fades by a gate.

S_t = a_t S_(t-1) (I - b_t k_t k_t^T) + b_t v_t k_t^T, read as S_t q_t: what stood at key k_t is replaced by v_t in the
proportion b_t, and everything fades by a_t.  Queries and keys have length 1; queries, keys and values go through a
short convolution over time; what is read is normalised head by head and gated (section 3.3 and figure 1 there).

A segment is computed in chunks without a loop over steps.  Let G_ti be the product of a over the steps after i up to t,
0 where an episode begins among them.  Then S_t = G_t0 S_0 + sum over i <= t of G_ti u_i k_i^T, where the u solve
u_t = b_t (v_t - G_t0 S_0 k_t - sum over i < t of G_ti (k_i . k_t) u_i): a triangular system in every head.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_sizes
from .attention import split_heads
from .core import CoreConfig, CoreOutput, MemoryCore, Record, TensorState, check_segment, episode_time, segment_starts
from .transformer import Block

CHUNK = 64
"""Steps computed at once."""


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetConfig(CoreConfig):
    """Shape of the Gated DeltaNet."""

    name: ClassVar[str] = "gated-delta-net"
    layers: int = 2
    """Layers, each with a matrix for every head."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 4
    """Heads; they divide the width."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    convolution: int = 4
    """Steps that queries, keys and values are mixed from, the present one included."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width", "heads", "ff_width", "convolution")
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")

    def build(self) -> "GatedDeltaNet":
        """A new core with these settings."""
        return GatedDeltaNet(self)


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetState(TensorState):
    """What every layer carries on, and the clock of every row."""

    matrix: Float[Tensor, "B layers H K K"]
    """S: by value and key."""
    recent: Float[Tensor, "B layers before three_D"]
    """Queries, keys and values of the steps before, as they enter the convolution."""
    time: Int[Tensor, " B"]
    """Steps since the episode began."""


class GatedDeltaNetLayer(Block):
    """A gated delta rule, then a feed-forward half."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config.width, config.ff_width)
        width, heads = config.width, config.heads
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Parameter(torch.empty(config.convolution, 3 * width))
        """How much of the input so many steps ago enters each query, key and value."""
        nn.init.uniform_(self.mix, -(config.convolution**-0.5), config.convolution**-0.5)
        self.fade_write = nn.Linear(width, 2 * heads)
        self.gate = nn.Linear(width, width)
        self.read_norm = nn.RMSNorm(width // heads)
        self.output = nn.Linear(width, width, bias=False)
        # As in Mamba 2, which the gate is from: a = exp(-rate * softplus(W x + b)), rates of 1 to 16 and softplus(b) of
        # 0.001 to 0.1 at first, evenly in the logarithm.
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        pace = torch.exp(torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)))
        with torch.no_grad():
            self.fade_write.bias[:heads] = pace.expm1().log()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        matrix: Float[Tensor, "B H K K"],
        recent: Float[Tensor, "B before three_D"],
        start: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H K K"], Float[Tensor, "B before three_D"]]:
        """The layer's output, and what it carries on; `start` is as of `segment_starts`."""
        inner = self.norm(x)
        rows, recent = self._mixed(self.query_key_value(inner), recent, start)
        query, key, value = (split_heads(part, self.heads) for part in rows.chunk(3, 2))
        query, key = (nn.functional.normalize(part, dim=-1) for part in (query, key))
        fade, write = self.fade_write(inner).transpose(1, 2).chunk(2, 1)
        log_keep = -self.log_rate.exp().unsqueeze(1) * nn.functional.softplus(fade)
        read = []
        for begin in range(0, x.shape[1], CHUNK):
            part = slice(begin, begin + CHUNK)
            q, k, v, fades, writes = (x[:, :, part] for x in (query, key, value, log_keep, torch.sigmoid(write)))
            reads, matrix = delta_rule(q, k, v, fades, writes, (start[:, part] - begin).clamp(min=-1), matrix)
            read.append(reads)
        mixed = self.read_norm(torch.cat(read, 2)).transpose(1, 2).flatten(2)
        return self.joined(x, self.output(mixed * nn.functional.silu(self.gate(inner)))), matrix, recent

    def _mixed(
        self,
        rows: Float[Tensor, "B T three_D"],
        recent: Float[Tensor, "B before three_D"],
        start: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T three_D"], Float[Tensor, "B before three_D"]]:
        """The convolution over the steps of each episode, and what it needs of them later."""
        before, steps = recent.shape[1], rows.shape[1]
        since = start.masked_fill(start < 0, -before)
        padded = torch.cat([recent, rows], 1)
        mixed = torch.zeros_like(rows)
        for ago, weight in enumerate(self.mix):
            earlier = padded[:, before - ago : before - ago + steps]
            other = torch.arange(steps, device=rows.device) - ago < since  # of another episode
            mixed = mixed + weight * earlier.masked_fill(other.unsqueeze(2), 0)
        last = torch.arange(steps - before, steps, device=rows.device) < since[:, -1:]
        return nn.functional.silu(mixed), padded[:, steps:].masked_fill(last.unsqueeze(2), 0)


def delta_rule(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H T K"],
    value: Float[Tensor, "B H T K"],
    log_keep: Float[Tensor, "B H T"],
    write: Float[Tensor, "B H T"],
    start: Int[Tensor, "B T"],
    matrix: Float[Tensor, "B H K K"],
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H K K"]]:
    """What the steps of a chunk read, and the matrix after it, as the module's docstring has it.

    `log_keep` is log a, `write` is b, `matrix` is S before the chunk and `start` is as of `segment_starts`.
    """
    steps = torch.arange(query.shape[2], device=query.device)
    since = log_keep.cumsum(2)
    same = (steps <= steps.unsqueeze(1)) & (steps >= start.unsqueeze(2))
    kept = (since.unsqueeze(3) - since.unsqueeze(2)).masked_fill(~same.unsqueeze(1), -torch.inf).exp()
    carried = since.masked_fill((start >= 0).unsqueeze(1), -torch.inf).exp().unsqueeze(3)
    matrix = matrix.masked_fill((start[:, 0] >= 0).view(-1, 1, 1, 1), 0)  # which clears what is not a number, too
    strength = write.unsqueeze(3)
    system = strength * kept * (key @ key.mT)
    wanted = strength * (value - carried * (key @ matrix.mT))
    change = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    read = carried * (query @ matrix.mT) + (kept * (query @ key.mT)) @ change
    after = carried[:, :, -1:] * matrix + change.mT @ (kept[:, :, -1].unsqueeze(3) * key)
    return read, after


class GatedDeltaNet(MemoryCore[GatedDeltaNetState]):
    """Layers of gated delta rules."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(GatedDeltaNetLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    def initial_state(self, batch_size: int) -> GatedDeltaNetState:
        """Zeros."""
        config, like = self.config, self.final_norm.weight
        size, before = config.width // config.heads, config.convolution - 1
        return GatedDeltaNetState(
            matrix=like.new_zeros(batch_size, config.layers, config.heads, size, size),
            recent=like.new_zeros(batch_size, config.layers, before, 3 * config.width),
            time=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: GatedDeltaNetState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[GatedDeltaNetState]:
        """Read T steps."""
        check_segment(self, x, state.matrix, resets)
        start, matrices, recent = segment_starts(resets), [], []
        for number, layer in enumerate(self.layers):
            x, matrix, rows = layer(x, state.matrix[:, number], state.recent[:, number], start)
            matrices.append(matrix.detach())
            recent.append(rows.detach())
        time = episode_time(state.time, start)[:, -1] + 1
        after = GatedDeltaNetState(matrix=torch.stack(matrices, 1), recent=torch.stack(recent, 1), time=time)
        return CoreOutput(y=self.final_norm(x), state=after)
