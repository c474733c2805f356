"""One layer of the Expire-Span transformer: its shape, the clock of a segment, and what each step may see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention import attend, attention_weights, position_scores
from .checks import check_choice, check_fraction, check_not_negative, check_positive, check_whole
from .core import AttentionTrace, LayerTrace, segment_starts
from .span import SpanPredictor, expiry_bias, fading
from .state import LayerMemory, outlived, times_outlived


@dataclass(frozen=True, kw_only=True)
class ExpireSpanConfig:
    """Shape of the Expire-Span core."""

    layers: int = 2
    """Transformer layers, each with memories and spans of its own."""
    width: int = 64
    """Width of the model (D)."""
    heads: int = 2
    """Attention heads; they divide the width."""
    ff_width: int = 128
    """Hidden width of the feed-forward half of a layer."""
    max_span: float = 4096.0
    """Longest span in steps that can be predicted (L)."""
    ramp: float = 16.0
    """Steps over which an expired memory fades (R)."""
    initial_span: float = 0.8
    """Spans at the start of training, as a fraction of max_span.  The paper starts at 0.1; a budget
    (agents/pressure.py) takes from common observations first, so that rare ones stay long."""
    pre_div: float = 1.0
    """Divides w . h before the sigmoid: with a large max_span, small changes of w then move spans less."""
    shorten_spans: bool = False
    """Random shortening, in training only: clamp all spans of a forward pass to u * max_span, u ~ U(0, 1)."""
    position_window: int = 0
    """Learned relative positions for memories younger than this many steps (M); older ones carry none."""
    capacity: int | None = None
    """Most memories that a layer stores beyond the present step; None for no bound, 0 for no memory at all."""
    dropout: float = 0.0
    """Dropout after attention and after the feed-forward half, in training only."""
    pre_norm: bool = True
    """Normalise the input of each half of a layer; False normalises its output, as the first transformers did."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "ff_width"):
            check_whole(name, getattr(self, name), at_least=1)
        if self.width % self.heads:
            raise ValueError(f"Expect `width` to be a multiple of `heads` ({self.heads}), actual: {self.width}")
        for name in ("max_span", "ramp", "pre_div"):
            check_positive(name, getattr(self, name))
        check_fraction("initial_span", self.initial_span)
        check_whole("position_window", self.position_window, at_least=0)
        if self.capacity is not None:
            check_whole("capacity", self.capacity, at_least=0)
        check_not_negative("dropout", self.dropout, below=1.0)
        check_choice("shorten_spans", self.shorten_spans, (True, False))
        check_choice("pre_norm", self.pre_norm, (True, False))


class Clock(NamedTuple):
    """When the steps of a segment happen and which of its steps each step may see; the same for every layer."""

    steps: Int[Tensor, " T"]
    """0, 1, ...: times since the segment began, in which ages are counted."""
    time0: Int[Tensor, " B"]
    """Time within the episode at which the segment begins, resets apart."""
    time: Int[Tensor, "B T"]
    """Time of each step within its episode."""
    start: Int[Tensor, "B T"]
    """The step at which the episode of each step began; -1 where that was before the segment."""
    continues: Float[Tensor, "B T"]
    """1 where the episode of a step began before the segment, else 0."""
    causal: Float[Tensor, "B T T"]
    """1 where a step may see another, which is in its episode and not later, else 0."""
    lives: Bool[Tensor, "B T"]
    """All true: every new memory is live at first."""


def read_clock(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"], dtype: torch.dtype) -> Clock:
    """Times within the episode, from the time of the first step and the resets; `dtype` is that of the core."""
    steps = torch.arange(resets.shape[1], device=resets.device)
    start = segment_starts(resets)
    continues = start < 0
    time = torch.where(continues, time0.unsqueeze(1) + steps, steps - start)
    causal = (steps <= steps.unsqueeze(1)) & (steps >= start.unsqueeze(2))
    return Clock(steps, time0, time, start, continues.to(dtype), causal.to(dtype), torch.ones_like(resets))


class ExpireSpanLayer(nn.Module):
    """One transformer layer: attention over its own memories, then a feed-forward half, each with a residual."""

    def __init__(self, config: ExpireSpanConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.ff_width), nn.ReLU(), nn.Linear(config.ff_width, width)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.span = SpanPredictor(width, config.max_span, config.initial_span, config.pre_div)
        positions = torch.zeros(config.heads, width // config.heads, config.position_window)
        self.position = nn.Parameter(positions) if config.position_window else None
        # Queries, keys and values that keep the size of their input.  torch's default is smaller: attention starts
        # nearly uniform, and choosing Corridor's door took a bandit version of it twice as many episodes to learn.
        for block in self.query_key_value.weight.data.split(width):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.query_key_value.bias)

    def refresh(self, memory: LayerMemory) -> LayerMemory:
        """The same memories with keys, values and spans from the current weights."""
        width = self.config.width
        weight, bias = self.query_key_value.weight[width:], self.query_key_value.bias[width:]
        key, value = self._by_head(nn.functional.linear(memory.hidden, weight, bias), 2)
        return replace(memory, key=key, value=value, span=self.span(memory.hidden), room=None)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: LayerMemory,
        clock: Clock,
        *,
        longest: float | None,
        weigh: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], LayerMemory, "Kept"]:
        """Output, every memory stored or new, and which of them each step saw.

        `longest` clamps the spans that attention sees (random shortening); `weigh` asks for the attention weights.
        """
        hidden = self.attention_norm(x) if self.config.pre_norm else x
        query, key, value = self._by_head(self.query_key_value(hidden), 3)
        new = LayerMemory(
            hidden=hidden, key=key, value=value, span=self.span(hidden), birth=clock.time, live=clock.lives
        )
        known = memory.joined(new)
        stored = known.live.shape[1] - clock.steps.shape[0]
        written = torch.cat([known.birth[:, :stored] - clock.time0.unsqueeze(1), clock.steps.expand_as(clock.time)], 1)
        visible = torch.cat([known.live[:, None, :stored] * clock.continues.unsqueeze(2), clock.causal], 2)
        evicted = self._evicted(known, clock)
        seen = visible
        if evicted is not None:
            seen = visible * (~evicted[:, :-1] | (written.unsqueeze(1) == clock.steps.unsqueeze(1)))
        unclamped = fading(known.span, written, clock.steps, self.config.ramp)
        span, shortened = known.span, unclamped
        if longest is not None:
            span = known.span.clamp(max=longest)
            shortened = fading(span, written, clock.steps, self.config.ramp)
        bias, mask = expiry_bias(shortened, seen)
        if self.position is not None:
            age = clock.steps.unsqueeze(1) - written.unsqueeze(1)
            bias = bias.unsqueeze(1) + position_scores(query, self.position, age)
        read = attend(query, known.key, known.value, bias)
        y = self._transform(x, read.transpose(1, 2).flatten(-2))
        weights = attention_weights(query, known.key, bias).detach() if weigh else None
        return y, known, Kept(span, mask, unclamped.detach(), visible, evicted, weights)

    def _by_head(self, projected: Tensor, parts: int) -> Sequence[Tensor]:
        """[B, T, parts * D] as `parts` contiguous tensors [B, H, T, K]: joining strided ones takes longer."""
        return projected.unflatten(-1, (parts, self.config.heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind()

    def _transform(self, x: Tensor, read: Tensor) -> Tensor:
        """The residual stream after what attention read and after the feed-forward half."""
        attended = x + self.dropout(self.output(read))
        if self.config.pre_norm:
            return attended + self.dropout(self.feed_forward(self.feed_forward_norm(attended)))
        attended = self.attention_norm(attended)
        return self.feed_forward_norm(attended + self.dropout(self.feed_forward(attended)))

    def _evicted(self, known: LayerMemory, clock: Clock) -> Bool[Tensor, "B boundaries S"] | None:
        """Which memories the capacity has pushed out before the segment and after each step; None while it can't."""
        capacity, slots = self.config.capacity, known.birth.shape[1]
        if capacity is None or slots <= capacity:
            return None
        stored = slots - clock.time.shape[1]
        if stored == slots - 1:
            exists = known.live & torch.cat([clock.continues.bool().expand(-1, stored), clock.lives], 1)
            after = times_outlived(known.span.detach(), known.birth, exists)
            before = after - (after > after[:, -1:]).long()  # without the new one, which is the last
            return torch.stack([before, after], 1) >= capacity
        episode = nn.functional.pad(clock.start, (stored, 0), value=-1)
        same_episode = episode.unsqueeze(1) == episode.unsqueeze(2)
        outlives = outlived(known.span.detach(), known.birth, known.live) & same_episode
        before = outlives[:, :, :stored].sum(2, keepdim=True)
        counts = torch.cat([before, outlives[:, :, stored:]], 2).cumsum(2)
        return (counts >= capacity).transpose(1, 2)


class Kept(NamedTuple):
    """Which memories each step of a segment could see."""

    span: Float[Tensor, "B S"]
    """The spans that attention saw."""
    mask: Float[Tensor, "B T S"]
    """How visible each memory was; 0 outside the step's episode, after the step, and once evicted."""
    fading: Float[Tensor, "B T S"]
    """The mask before it is clamped, as deletion goes by: without random shortening, in the future of a step too."""
    visible: Float[Tensor, "B T S"]
    """0 where a memory lies outside the step's episode or after the step, else 1."""
    evicted: Bool[Tensor, "B boundaries S"] | None
    """Which ones the capacity had pushed out before the segment and after each step; None where it can't have."""
    weights: Float[Tensor, "B T S"] | None
    """Share of each memory in what a step read, the mean over heads; only on request."""


def survivors(known: LayerMemory, kept: Kept, ramp: float, keep_expired: bool) -> LayerMemory:
    """The memories, detached, that a step after the segment could still see (all of the episode if `keep_expired`)."""
    live = kept.visible[:, -1] > 0
    if not keep_expired:
        live = live & (kept.fading[:, -1] > 1 / ramp)
        if kept.evicted is not None:
            live = live & ~kept.evicted[:, -1]
    return replace(known.map(torch.Tensor.detach) if known.key.requires_grad else known, live=live)


def trace_layer(known: LayerMemory, kept: Kept, clock: Clock, ramp: float) -> LayerTrace:
    """What the layer kept at each step of the segment."""
    evicted = torch.full_like(clock.time, -1)
    if kept.evicted is not None:
        pushed_out = (kept.mask > 0) & kept.evicted[:, 1:] & (kept.fading > 1 / ramp)
        evicted = torch.where(pushed_out, known.birth.unsqueeze(1), -1).amax(2)
    span = known.span[:, -clock.time.shape[1] :].detach()
    attention = None if kept.weights is None else AttentionTrace(weight=kept.weights, birth=known.birth)
    lifetime, live = (span + ramp).ceil().long(), kept.mask.sign().sum(2).long()
    return LayerTrace(span=span, lifetime=lifetime, live=live, evicted=evicted, attention=attention)
