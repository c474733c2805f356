"""The Compressive Transformer (Rae et al., 2020): what leaves the window stays on, several steps in one memory.

Each layer sees the inputs of the last N steps, and then M compressed memories of c steps each.  Steps are compressed
by blocks of c, counted from the beginning of the episode, as soon as all of a block are older than the window; until
then they are seen as they are.  What compresses is a linear map of the c inputs (the paper's strided convolution).  It
learns from a term of the loss of its own: attention to a block must read the same from its compressed memory (section
3.2 there).  That term changes nothing but the compression, and nothing else changes the compression.

A compressed memory stands where its block began, so steps see it at ages beyond those of the inputs.  Attention is that
of Expire-Span, with all spans the same.

Deviations: attention is rebuilt block by block, from the query of the step at which the block is compressed, so that
any split of a sequence gives the same loss; the compression begins as the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_not_negative, check_whole
from .attention import AGE_STEP, Positions, initial_age_bias, split_heads
from .core import (
    AttentionTrace,
    CoreOutput,
    LayerTrace,
    MemoryCore,
    Record,
    TensorState,
    check_segment,
    segment_starts,
)
from .expire_span import compiled
from .expire_span.attention import NEVER, MemoryView, Reading
from .transformer import Block
from .window import WindowConfig


@dataclass(frozen=True, kw_only=True)
class CompressiveConfig(WindowConfig):
    """Shape of the Compressive Transformer."""

    name: ClassVar[str] = "compressive"
    window: int = 32
    """Steps before the present one that each layer sees as they were (N)."""
    compressed: int = 32
    """Compressed memories that each layer sees beyond the window (M)."""
    rate: int = 4
    """Steps in a compressed memory (c)."""
    reconstruction: float = 1.0
    """Weight in the loss of what attention to a block reads otherwise once it is compressed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("compressed", "rate"):
            check_whole(name, getattr(self, name), at_least=1)
        check_not_negative("reconstruction", self.reconstruction)

    def build(self) -> "Compressive":
        """A new core with these settings."""
        return Compressive(self)

    @property
    def raw(self) -> int:
        """Inputs stored: those of the window and of a block that is about to leave it."""
        return self.window + self.rate

    @property
    def reach(self) -> int:
        """The greatest age at which something of a step can be seen."""
        return self.window + self.rate * (self.compressed + 1) - 1

    def compressed_by(self, time: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """How many blocks of an episode are compressed at this step of it: all those older than the window."""
        return torch.div(time - self.window, self.rate, rounding_mode="floor").clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class CompressiveState(TensorState):
    """The last inputs of every layer and their compressed memories, the newest last, and the clock of every row."""

    hidden: Float[Tensor, "B layers raw D"]
    compressed: Float[Tensor, "B layers M D"]
    time: Int[Tensor, " B"]
    """Steps since the episode began, by which it is known how many of both belong to it."""


class CompressiveLayer(Block):
    """Attention over compressed memories, the window and the segment's steps; and what makes one memory of a block."""

    def __init__(self, config: CompressiveConfig) -> None:
        super().__init__(config.width, config.ff_width, config.heads)
        width, self.heads, ages = config.width, config.heads, config.raw + config.compressed
        self.position = nn.Parameter(torch.zeros(config.heads, width // config.heads, ages))
        self.age_weight = nn.Parameter(initial_age_bias(config.heads, ages) / AGE_STEP)
        by_age = [
            *range(config.raw),
            *(config.raw + block for block in range(config.compressed) for _ in range(config.rate)),
        ]
        self.register_buffer("by_age", torch.tensor([*by_age, ages]), persistent=False)
        self.compress = nn.Linear(config.rate * width, width)
        with torch.no_grad():
            self.compress.weight.copy_(torch.eye(width).repeat(1, config.rate) / config.rate)
            nn.init.zeros_(self.compress.bias)

    @property
    def positions(self) -> Positions:
        """What tells ages apart: one place for each input, and for each block, whose age is that of its first step."""
        by_age = self.get_buffer("by_age")
        return Positions(self.position[:, :, by_age[:-1]], AGE_STEP * self.age_weight[:, by_age])

    def forward(
        self, x: Float[Tensor, "B T D"], stored: Float[Tensor, "B N D"], view: MemoryView, need_weights: bool
    ) -> tuple[Float[Tensor, "B T D"], Reading]:
        """The layer's output, and what each step saw of the S = N + T memories."""
        width, rows, unseen = x.shape[2], self.query_key_value(self.normed(x)), view.gone
        if unseen is not None:  # what nobody sees may hold anything
            stored = stored.masked_fill(unseen[:, :-1, : stored.shape[1]].all(1).unsqueeze(2), 0)
        weight, bias = self.query_key_value.weight[width:], self.query_key_value.bias[width:]
        stored = nn.functional.linear(self.normed(stored), weight, bias)
        given = (rows, stored, view.span, view, self.heads, 1.0, self.positions)
        read, reading = compiled.attend_segment(*given, need_weights, self.dropped_weights)
        return self.joined(x, self.output(read)), reading

    def lost(
        self, x: Float[Tensor, "N D"], block: Float[Tensor, "N c D"], memory: Float[Tensor, "N D"]
    ) -> Float[Tensor, ""]:
        """How far apart what steps with inputs x read from a block and from its compressed memory are.

        Squared, the mean over D, summed over the N steps; without gradient to anything but the compressed memories.
        """
        fixed = [parameter.detach() for parameter in (*self.norm.parameters(), *self.query_key_value.parameters())]
        gain, shift, weight, bias = fixed
        rows = torch.cat([block.detach(), x.detach().unsqueeze(1), memory.unsqueeze(1)], 1)
        normed = nn.functional.layer_norm(rows, rows.shape[2:], gain, shift, self.norm.eps)
        query, key, value = nn.functional.linear(normed, weight, bias).chunk(3, 2)
        steps = block.shape[1]
        parts = (query[:, -2:-1], key[:, :steps], value[:, :steps])
        query, key, old = (split_heads(part, self.heads) for part in parts)
        shares = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        return ((shares @ old).transpose(1, 2).flatten(1) - value[:, -1]).square().mean(1).sum()


class Compressive(MemoryCore[CompressiveState]):
    """A transformer over a window and compressed memories of what was before."""

    keeps_memories = True

    def __init__(self, config: CompressiveConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(CompressiveLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    def stack(self) -> Iterator[CompressiveLayer]:
        """The layers as what they are: torch leaves open what a ModuleList holds."""
        for layer in self.layers:
            assert isinstance(layer, CompressiveLayer)
            yield layer

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of what compression loses."""
        return {"reconstruction": self.config.reconstruction}

    def initial_state(self, batch_size: int) -> CompressiveState:
        """No memories."""
        check_whole("batch_size", batch_size, at_least=1)
        like, config = self.final_norm.weight, self.config
        return CompressiveState(
            hidden=like.new_zeros(batch_size, config.layers, config.raw, config.width),
            compressed=like.new_zeros(batch_size, config.layers, config.compressed, config.width),
            time=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: CompressiveState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[CompressiveState]:
        """Read T steps; `losses` holds "reconstruction"."""
        check_segment(self, x, state.time, resets)
        seen = self._look(state, resets, x.dtype)
        hidden, compressed, trace, lost = [], [], [], x.new_zeros(())
        for number, layer in enumerate(self.stack()):
            inputs = torch.cat([state.hidden[:, number], x.detach()], 1)
            blocks = inputs.unfold(1, self.config.rate, 1).transpose(2, 3)
            made = layer.compress(blocks.flatten(2))
            memories = torch.cat([state.compressed[:, number], made.detach()], 1)
            if record & Record.LOSSES:
                row, step, end = seen.leaving.nonzero(as_tuple=True)
                lost = lost + layer.lost(x[row, step], blocks[row, end], made[row, end])
            if record & Record.STATE:
                hidden.append(inputs[:, x.shape[1] :])
                compressed.append(kept(memories, seen.place, self.config.compressed))
            shows = bool(record & Record.ATTENTION)
            x, reading = layer(x, torch.cat([memories, state.hidden[:, number]], 1), seen.view, shows)
            if record & (Record.TRACE | Record.ATTENTION):
                trace.append(self._traced(seen, reading))
        after = None
        if record & Record.STATE:
            after = CompressiveState(
                hidden=torch.stack(hidden, 1), compressed=torch.stack(compressed, 1), time=seen.time[:, -1] + 1
            )
        return CoreOutput(
            y=self.final_norm(x),
            state=after,
            losses={"reconstruction": lost} if record & Record.LOSSES else {},
            trace=tuple(trace) if record & (Record.TRACE | Record.ATTENTION) else None,
        )

    def _traced(self, seen: "Seen", reading: Reading) -> LayerTrace:
        """What a layer kept: something of every step, for as long as its block is stored."""
        reach, shown = torch.full_like(seen.time, self.config.reach), None
        if reading.weights is not None:
            shown = AttentionTrace(weight=reading.weights.mean(1), birth=seen.view.birth)
        return LayerTrace(
            span=reach.to(reading.seen.dtype),
            lifetime=reach + 1,
            live=reading.live,
            evicted=torch.full_like(seen.time, -1),
            attention=shown,
        )

    def _look(self, state: CompressiveState, resets: Bool[Tensor, "B T"], dtype: torch.dtype) -> "Seen":
        """What the steps of a segment see, which is the same in every layer."""
        config = self.config
        clock = read_clock(state.time, resets, config.raw)
        written = clock.time.unsqueeze(2) - clock.age  # in the episode's time, where it is visible
        done = config.compressed_by(clock.time).unsqueeze(2)
        raw = clock.visible & (written >= config.rate * done)
        # Block j ends at the episode's step (j + 1) c - 1.  Those that end at the first c - 1 inputs are not all there,
        # and those that end later were not compressed before the segment.
        ends = written[:, :, config.rate - 1 :] + 1
        number = torch.div(ends, config.rate, rounding_mode="floor") - 1
        new = clock.visible[:, :, config.rate - 1 :] & (ends % config.rate == 0) & (number < done)
        just_now = config.rate * done == clock.time.unsqueeze(2) - config.window
        before = config.compressed_by(state.time - 1).unsqueeze(1)
        stored = before + torch.arange(-config.compressed, 0, device=resets.device)
        old = (stored >= 0).unsqueeze(1) & (clock.since < 0).unsqueeze(2)
        blocks = torch.cat([stored.unsqueeze(1).expand_as(old), number], 2)
        rank = done - 1 - blocks  # 0 for the one compressed last
        block_seen = torch.cat([old, new], 2) & (rank < config.compressed)
        birth = clock.written + state.time.unsqueeze(1)
        births = torch.cat([config.rate * (stored + 1) - 1, birth[:, config.rate - 1 :], birth], 1)
        first = clock.written[config.rate - 1 :] - (config.rate - 1)
        begun = (config.rate * stored - state.time.unsqueeze(1), first.expand(len(birth), -1))
        written = torch.cat([*begun, clock.written.expand(len(birth), -1)], 1)
        visible = torch.cat([block_seen, raw], 2)
        view = MemoryView(
            span=torch.full_like(written, config.raw + config.rate * config.compressed - 1, dtype=dtype),
            birth=births,
            written=written,
            live=torch.ones_like(written, dtype=torch.bool),
            since=torch.full_like(clock.time, NEVER),
            gone=nn.functional.pad(~visible, (0, 0, 0, 1)),
        )
        place = torch.where(block_seen[:, -1], config.compressed - 1 - rank[:, -1], -1)
        return Seen(clock.time, view, new & just_now & (number == done - 1), place)


class InputClock(NamedTuple):
    """Which inputs, of the N stored and the T new ones, the steps of a segment see by their age and episode."""

    time: Int[Tensor, "B T"]
    """Of each step within its episode."""
    since: Int[Tensor, "B T"]
    """Where in the segment the episode of each step began, negative for before."""
    written: Int[Tensor, " S"]
    """Where in the segment each input was written, negative for those stored."""
    age: Int[Tensor, "B T S"]
    """Steps since then; negative for what is yet to come."""
    visible: Bool[Tensor, "B T S"]
    """Of the same episode, and not yet to come."""


def read_clock(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"], stored: int) -> InputClock:
    """From the time of the first step, where it is no reset, and the number of inputs stored."""
    steps = torch.arange(resets.shape[1], device=resets.device)
    start = segment_starts(resets)
    since = torch.where(start < 0, -time0.unsqueeze(1), start)
    written = torch.arange(-stored, resets.shape[1], device=resets.device)
    age = (steps.unsqueeze(1) - written).expand(len(resets), -1, -1)
    visible = (age >= 0) & (written >= since.unsqueeze(2))
    return InputClock(steps - since, since, written, age, visible)


class Seen(NamedTuple):
    """What the steps of a segment see: S = M + E + N + c + T memories.

    First the M stored compressed ones, then those made of the E blocks that end at an input, then the inputs.
    """

    time: Int[Tensor, "B T"]
    view: MemoryView
    """A block is written by its first step, from which its age is counted, and born at its last."""
    leaving: Bool[Tensor, "B T E"]
    """The block that a step compresses."""
    place: Int[Tensor, "B M_E"]
    """Where each compressed memory is stored after the segment; -1 for those that are not."""


def kept(memories: Float[Tensor, "B M_E D"], place: Int[Tensor, "B M_E"], size: int) -> Float[Tensor, "B M D"]:
    """The memories in their places; zeros where there is none."""
    stored = memories.new_zeros(len(memories), size + 1, memories.shape[2])
    where = torch.where(place < 0, size, place).unsqueeze(2).expand_as(memories)
    return stored.scatter(1, where, memories)[:, :size]
