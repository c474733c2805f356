"""A transformer over a window of the last steps: what GTrXL, Adaptive-Span and the Compressive Transformer share.

Queries, keys, values, ages and counts are computed as in Expire-Span (attention.py); all pairs of a step and a memory
are, on any device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..checks import check_whole
from .attention import AGE_STEP, Positions, attend, initial_age_bias, position_scores, split_heads, without_unseen
from .core import (
    AttentionTrace,
    CoreConfig,
    CoreOutput,
    LayerTrace,
    MemoryCore,
    Record,
    TensorState,
    check_segment,
    segment_starts,
)
from .transformer import Block, initialise_attention


@dataclass(frozen=True, kw_only=True)
class WindowConfig(CoreConfig):
    """Shape of a transformer over a window."""

    layers: int = 2
    """Transformer layers, each with memories of its own."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 4
    """Attention heads; they divide the width."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    window: int = 64
    """Steps before the present one that each layer sees (N); 0 for no memory."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "ff_width"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("window", self.window, at_least=0)
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")


@dataclass(frozen=True, kw_only=True)
class WindowState(TensorState):
    """The last inputs of every layer, the newest last, and the clock of every row."""

    hidden: Float[Tensor, "B layers N D"]
    """Before the norm, so that keys and values always follow from the present weights."""
    time: Int[Tensor, " B"]
    """Steps since the episode began, by which it is known how many of the inputs belong to it."""


class WindowLayer(Block):
    """Attention over the window and the steps of the segment, then a feed-forward half."""

    def __init__(self, config: WindowConfig, ages: int, gated: bool = False) -> None:
        super().__init__(config.width, config.ff_width, gated)
        width, self.heads = config.width, config.heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width + config.heads, width)
        self.position = nn.Parameter(torch.zeros(config.heads, width // config.heads, ages))
        self.age_weight = nn.Parameter(initial_age_bias(config.heads, ages) / AGE_STEP)
        self.window = config.window
        initialise_attention(self.query_key_value, self.output)

    @property
    def reach(self) -> int:
        """The greatest age that the layer sees now."""
        return self.window

    def mask_bias(self, age: Int[Tensor, "B T S"]) -> Float[Tensor, "B #H T S"] | None:
        """What the layer adds to the scores of memories of these ages; nothing in a plain window."""
        return None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        stored: Float[Tensor, "B N D"],
        age: Int[Tensor, "B T S"],
        visible: Bool[Tensor, "B T S"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B H T S"]]:
        """The layer's output, and how each step's attention was shared out over the S = N + T inputs."""
        stored = without_unseen(stored, visible[:, :, : stored.shape[1]])
        rows = self.query_key_value(self.norm(torch.cat([stored, x], 1)))
        query, key, value = (split_heads(part, self.heads) for part in rows.chunk(3, 2))
        query = query[:, :, stored.shape[1] :]
        bias = torch.zeros_like(age, dtype=x.dtype).masked_fill(~visible, -torch.inf).unsqueeze(1)
        bias = bias + position_scores(query, Positions(self.position, AGE_STEP * self.age_weight), age)
        if (log_mask := self.mask_bias(age)) is not None:
            bias = bias + log_mask
        read, weights = attend(query, key, value, bias)
        return self.joined(x, self.output(read)), weights


class WindowTransformer(MemoryCore[WindowState]):
    """A transformer whose layers see the last N steps of the episode."""

    keeps_memories = True

    def __init__(self, config: WindowConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(self.make_layer() for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)

    def make_layer(self) -> WindowLayer:
        """A new layer."""
        return WindowLayer(self.config, self.config.window + 1)

    def stack(self) -> Iterator[WindowLayer]:
        """The layers as what they are: torch leaves open what a ModuleList holds."""
        for layer in self.layers:
            assert isinstance(layer, WindowLayer)
            yield layer

    def initial_state(self, batch_size: int) -> WindowState:
        """No memories."""
        check_whole("batch_size", batch_size, at_least=1)
        like, config = self.final_norm.weight, self.config
        time = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return WindowState(hidden=like.new_zeros(batch_size, config.layers, config.window, config.width), time=time)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: WindowState,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[WindowState]:
        """Read T steps."""
        check_segment(self, x, state.time, resets)
        window, clock = self.config.window, read_clock(state.time, resets, self.config.window)
        hidden, trace = [], []
        for number, layer in enumerate(self.stack()):
            stored = state.hidden[:, number]
            if record & Record.STATE:
                hidden.append(torch.cat([stored, x.detach()], 1)[:, x.shape[1] :])
            unseen = window - layer.reach
            age, visible = clock.age[:, :, unseen:], clock.visible[:, :, unseen:]
            visible = visible & (age <= layer.reach)
            x, weights = layer(x, stored[:, unseen:], age.clamp(min=0), visible)
            if record & (Record.TRACE | Record.ATTENTION):
                shown = None
                if record & Record.ATTENTION:
                    birth = torch.cat([clock.written[unseen:window] + state.time.unsqueeze(1), clock.time], 1)
                    shown = AttentionTrace(weight=weights.detach().mean(1), birth=birth)
                trace.append(traced(clock.time, layer.reach, visible.sum(2), shown, x.dtype))
        return CoreOutput(
            y=self.final_norm(x),
            state=WindowState(hidden=torch.stack(hidden, 1), time=clock.time[:, -1] + 1) if hidden else None,
            losses=self.losses(clock.time) if record & Record.LOSSES else {},
            trace=tuple(trace) if record & (Record.TRACE | Record.ATTENTION) else None,
        )

    def losses(self, time: Int[Tensor, "B T"]) -> dict[str, Tensor]:
        """Terms of the loss for steps at these times; none for a plain window."""
        return {}


class WindowClock(NamedTuple):
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


def read_clock(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"], stored: int) -> WindowClock:
    """From the time of the first step, where it is no reset, and the number of inputs stored."""
    steps = torch.arange(resets.shape[1], device=resets.device)
    start = segment_starts(resets)
    since = torch.where(start < 0, -time0.unsqueeze(1), start)
    written = torch.arange(-stored, resets.shape[1], device=resets.device)
    age = (steps.unsqueeze(1) - written).expand(len(resets), -1, -1)
    visible = (age >= 0) & (written >= since.unsqueeze(2))
    return WindowClock(steps - since, since, written, age, visible)


def traced(
    time: Int[Tensor, "B T"], reach: int, live: Int[Tensor, "B T"], attention: AttentionTrace | None, dtype: torch.dtype
) -> LayerTrace:
    """The trace of a layer whose memories all stay for `reach` steps after their own."""
    span, lifetime = torch.full_like(time, reach, dtype=dtype), torch.full_like(time, reach + 1)
    return LayerTrace(span=span, lifetime=lifetime, live=live, evicted=torch.full_like(time, -1), attention=attention)
