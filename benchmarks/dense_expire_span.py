"""Expire-Span as the paper's formulas are written down, over all pairs: what `efficiency.py` measures others by.

    a = softmax(q . k + q . p_age) * m,    renormalised,    m_ti = clamp(1 + (e_i - (t - i)) / R, 0, 1)

Nothing is saved by being clever: keys, values and spans of all stored memories are made again in every segment, every
pair of a step and a memory is computed, and of the tensors [B, H, T, S + T] autograd keeps what it likes.  A memory's
place is given up once it has expired in every row, in whole blocks of M places; the last M steps always stay.

It computes what the core `expire-span` computes (tests/test_dense_expire_span.py), where that has no bias of ages and
reads no counts.  What else differs: one key of each age for all layers and heads, and streams without resets.  Unlike
the released implementation a step attends to its own memory, and streams begin without blank ones.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from expirespan.memory import CoreConfig, CoreOutput, MemoryCore, Record
from expirespan.memory.attention import split_heads
from expirespan.memory.expire_span.span import SpanPredictor
from expirespan.memory.transformer import Block
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DenseConfig(CoreConfig):
    """Shape, named as that of `expire-span` is."""

    name: ClassVar[str] = "dense"
    layers: int = 2
    width: int = 64
    heads: int = 4
    ff_width: int = 128
    max_span: float = 4096.0
    ramp: float = 16.0
    initial_span: float = 0.8
    position_window: int = 64
    """Ages that have a key, and places that are given up at a time (M): the steps of a segment."""

    def build(self) -> "DenseExpireSpan":
        """A new core with these settings."""
        return DenseExpireSpan(self)


class Stored(NamedTuple):
    """What a layer stores; a place holds memories of the same age in all rows."""

    hidden: Float[Tensor, "B S D"]
    """The layer's inputs, the newest last."""
    age: Int[Tensor, " S"]
    """At the next step, from 1."""


@dataclass(frozen=True)
class DenseState:
    """What every layer stores."""

    layers: tuple[Stored, ...]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.layers[0].hidden)

    def rows(self, index: Int[Tensor, " chosen"]) -> "DenseState":
        """The state of the rows with these numbers only."""
        return DenseState(tuple(Stored(layer.hidden[index], layer.age) for layer in self.layers))

    def tensors(self) -> dict[str, Tensor]:
        """Inputs and ages of each layer."""
        parts = ((number, layer._asdict()) for number, layer in enumerate(self.layers))
        return {f"{number}.{name}": tensor for number, named in parts for name, tensor in named.items()}

    def compact(self) -> "DenseState":
        """The state itself."""
        return self


class DenseLayer(Block):
    """Attention over everything stored and over the segment, then a feed-forward half."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__(config.width, config.ff_width, config.heads)
        self.config = config
        self.output = nn.Linear(config.width, config.width)
        self.span = SpanPredictor(config.width, config.max_span, config.initial_span, 1.0)

    def forward(
        self, x: Float[Tensor, "B T D"], stored: Stored, position: Float[Tensor, "K M"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""], Stored]:
        """The layer's output, the penalty, and what it stores after the segment."""
        steps, ramp = x.shape[1], self.config.ramp
        memories = torch.cat([stored.hidden, x], 1)
        inner = self.norm(memories)
        rows = self.query_key_value(inner)
        query, key, value = (split_heads(part, self.config.heads) for part in rows.chunk(3, 2))
        query, span = query[:, :, -steps:], self.span(inner)

        time = torch.arange(steps, device=x.device)
        written = torch.cat([-stored.age, time])
        age = time.unsqueeze(1) - written
        mask = (1 + (span.unsqueeze(1) - age) / ramp).clamp(0, 1) * (age >= 0)

        scores = query @ key.mT + nn.functional.pad(skewed(query @ position), (key.shape[2], 0))[..., -key.shape[2] :]
        scores = (scores * query.shape[3] ** -0.5).masked_fill(age < 0, -torch.inf)
        weights = torch.softmax(scores, 3) * mask.unsqueeze(1)
        weights = weights / weights.sum(3, keepdim=True)
        read = (weights @ value).transpose(1, 2).flatten(2)

        on_ramp = (mask > 0) & (mask < 1)
        penalty = (on_ramp * span.unsqueeze(1)).sum() / ramp
        age = steps - written
        stays = places((1 + (span.detach() - age) / ramp > 0).any(0), self.config.position_window)
        return self.joined(x, self.output(read)), penalty, Stored(memories.detach()[:, stays], age[stays])


def skewed(by_age: Float[Tensor, "B H T M"]) -> Float[Tensor, "B H T M_T"]:
    """What each step adds to the places of the last M - 1 steps before the segment and of the segment's T; else 0."""
    steps, window = by_age.shape[2:]
    padded = nn.functional.pad(by_age.flip(3), (0, steps))
    return padded.flatten(2)[..., :-steps].unflatten(2, (steps, window + steps - 1))


def places(alive: Bool[Tensor, " S"], block: int) -> Int[Tensor, " stay"]:
    """Which places stay: the last `block`, and of those before them what is alive, filled up to whole blocks."""
    older = alive[:-block]
    count = min(-(-int(older.sum()) // block) * block, len(older))
    chosen = older.to(torch.uint8).argsort(stable=True)[len(older) - count :].sort().values
    return torch.cat([chosen, torch.arange(len(older), len(alive), device=alive.device)])


class DenseExpireSpan(MemoryCore[DenseState]):
    """The transformer."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(DenseLayer(config) for _ in range(config.layers))
        self.position = nn.Parameter(torch.randn(config.width // config.heads, config.position_window))
        self.final_norm = nn.LayerNorm(config.width)

    def initial_state(self, batch_size: int) -> DenseState:
        """No memories."""
        like = self.position
        age = torch.zeros(0, dtype=torch.int64, device=like.device)
        return DenseState((Stored(like.new_zeros(batch_size, 0, self.width), age),) * self.config.layers)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: DenseState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[DenseState]:
        """Read T steps, none of which begins an episode; `losses` holds "penalty"."""
        total, after = x.new_zeros(()), []
        for layer, stored in zip(self.layers, state.layers, strict=True):
            x, penalty, kept = layer(x, stored, self.position)
            total = total + penalty
            after.append(kept)
        return CoreOutput(y=self.final_norm(x), state=DenseState(tuple(after)), losses={"penalty": total})
