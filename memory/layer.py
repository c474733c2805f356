"""One layer of the Expire-Span transformer: its shape, the clock of a segment, and what each step may see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention import attend, position_scores, used_memories
from .blocks import Blocks, Sight, choose_blocks
from .checks import check_choice, check_fraction, check_not_negative, check_positive, check_whole
from .core import AttentionTrace, LayerTrace, segment_starts
from .span import SpanPredictor, expiry_bias, fading, log_mask
from .state import LayerMemory, first_to_expire, outlived


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
    """Most memories that a layer stores beyond the present step; None for no bound, 0 for no memory at all.  The
    newest ones, as many as the ramp has steps but at most half of the capacity, are not evicted; of the older ones, the
    first to expire is."""
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

    @property
    def newest(self) -> int:
        """Places of the capacity kept for the newest memories: a ramp's length, at most half of them."""
        return 0 if self.capacity is None else min(math.ceil(self.ramp), self.capacity // 2)

    @property
    def places(self) -> int | None:
        """Places of the capacity that older memories share; None for no bound."""
        return None if self.capacity is None else self.capacity - self.newest


class Clock(NamedTuple):
    """When the steps of a segment happen and since when each step may see; the same for every layer."""

    steps: Int[Tensor, "B T"]
    """0, 1, ...: times since the segment began, in which ages are counted."""
    time0: Int[Tensor, " B"]
    """Time within the episode at which the segment begins, resets apart."""
    time: Int[Tensor, "B T"]
    """Time of each step within its episode."""
    start: Int[Tensor, "B T"]
    """The step at which the episode of each step began; -1 where that was before the segment."""
    since: Int[Tensor, "B T"]
    """The earliest time since the segment began of which a step may see memories: `start`, or long ago."""
    lives: Bool[Tensor, "B T"]
    """All true: every new memory is live at first."""


LONG_AGO = -(2**62)


def read_clock(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"]) -> Clock:
    """Times within the episode, from the time of the first step and the resets."""
    steps = torch.arange(resets.shape[1], device=resets.device).expand_as(resets)
    start = segment_starts(resets)
    continues = start < 0
    time = torch.where(continues, time0.unsqueeze(1) + steps, steps - start)
    return Clock(steps, time0, time, start, start.masked_fill(continues, LONG_AGO), torch.ones_like(resets))


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
        whole: bool,
    ) -> tuple[Float[Tensor, "B T D"], LayerMemory, "Kept"]:
        """Output, every memory stored or new, and which of them each step saw.

        `longest` clamps the spans that attention sees (random shortening).  With `whole`, all steps look at all
        memories, otherwise in blocks at those that they can see (blocks.py), which is the same but for the work.
        """
        hidden = self.attention_norm(x) if self.config.pre_norm else x
        query, key, value = self._by_head(self.query_key_value(hidden), 3)
        new = LayerMemory(
            hidden=hidden, key=key, value=value, span=self.span(hidden), birth=clock.time, live=clock.lives
        )
        known = memory.joined(new)
        evicted = self._evicted(known, clock)
        everything = see(query, known, clock)
        gone = None if evicted is None else evicted[:, :-1]
        blocks = None if whole else choose_blocks(everything, self.config.ramp, gone)
        sight = everything if blocks is None else blocks.narrow(everything)
        visible = sight.visible()
        if gone is not None:
            gone = gone if blocks is None else blocks.narrow_pairs(gone)
            visible = visible & ~gone
        span = sight.span if longest is None else sight.span.clamp(max=longest)
        unclamped = fading(span, sight.written, sight.steps, self.config.ramp)
        bias, mask = expiry_bias(unclamped, visible.to(span.dtype))
        if self.position is not None:
            age = sight.steps.unsqueeze(2) - sight.written.unsqueeze(1)
            bias = bias.unsqueeze(1) + position_scores(sight.query, self.position, age)
        read, weights = attend(sight.query, sight.key, sight.value, bias)
        y = self._transform(x, read.transpose(1, 2).reshape(x.shape))
        ending = unclamped.detach()[:, -1]
        if blocks is not None or longest is not None:
            ending = fading(known.span.detach(), everything.written, clock.steps[:, -1:], self.config.ramp).squeeze(1)
        return (
            y,
            known,
            Kept(
                sight.span, span, mask, ending, weights, sight.written, sight.steps, everything.written, evicted, blocks
            ),
        )

    def step(
        self,
        x: Float[Tensor, "B D"],
        memory: LayerMemory,
        time: Int[Tensor, "B 1"],
        goes_on: Bool[Tensor, "B 1"],
        *,
        trace: bool,
        attention: bool,
    ) -> tuple[Float[Tensor, "B D"], LayerMemory, LayerTrace | None]:
        """The same for acting: one step at `time` of the episode, without gradient.

        Where an episode does not go on, nothing stored is seen.  What returns are the memories that stay.  Without a
        segment to sort out there are fewer small operations, whose number acting is bound by, and no copies.
        """
        ramp, heads = self.config.ramp, self.config.heads
        hidden = self.attention_norm(x) if self.config.pre_norm else x
        query, key, value = self.query_key_value(hidden).unflatten(-1, (3, heads, -1)).unbind(1)
        span, now = self.span(hidden), time.squeeze(1)
        stored = memory.live & goes_on
        places, newest = self.config.places, self.config.newest
        if places is not None and (memory.room is None or memory.room.limits != (places, newest)):  # it may hold more
            old = stored & (memory.birth < time - newest)
            stored = stored & ~(old & (outlived(memory.span, memory.birth, old).sum(2) >= places))
        known = replace(memory, live=stored).with_one_more(hidden, key, value, span, now, (places, newest))
        # As `fading`, from ages instead of times.
        unclamped = (known.span - (time - known.birth)).mul_(1 / ramp).add_(1)
        bias, mask = log_mask(unclamped, known.live.to(x.dtype))
        bias = bias.unsqueeze(1)
        query = query.unsqueeze(2)
        if self.position is not None:
            bias = bias.unsqueeze(1) + position_scores(query, self.position, (time - known.birth).unsqueeze(1))
        read, weights = attend(query, known.key, known.value, bias)
        y = self._transform(x, read.flatten(1))
        stays, evicted = known.live & (unclamped > 1 / ramp), None
        if places is not None and known.taken > places:
            old = known.live & (known.birth <= time - newest)
            slot = first_to_expire(known.span, known.birth, old)
            full = old.sum(1, keepdim=True) > places
            evicted = torch.where(full & stays.gather(1, slot), known.birth.gather(1, slot), -1)
            stays = stays.scatter(1, slot, stays.gather(1, slot) & ~full)
        shown = None
        if trace:
            shown = LayerTrace(
                span=span.unsqueeze(1),
                lifetime=(span + ramp).ceil().long().unsqueeze(1),
                live=mask.sign().sum(1, keepdim=True).long(),
                evicted=torch.full_like(time, -1) if evicted is None else evicted,
                attention=AttentionTrace(weight=weights.mean(1), birth=known.birth.clone()) if attention else None,
            )
        return y, replace(known, live=stays), shown

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
        places, newest, slots = self.config.places, self.config.newest, known.birth.shape[1]
        if places is None or slots <= places:
            return None
        steps = clock.time.shape[1]
        stored = slots - steps
        episode = nn.functional.pad(clock.start, (stored, 0), value=-1)
        same_episode = episode.unsqueeze(1) == episode.unsqueeze(2)
        outlives = (outlived(known.span.detach(), known.birth, known.live) & same_episode).to(known.span.dtype)
        # A memory needs a place from this boundary on: 0 is before the segment, 1 after its first step.
        begins = (written_in(known, clock) + newest + 1).clamp(min=0)
        boundaries = torch.arange(steps + 1, device=begins.device)
        counts = outlives.new_zeros(*begins.shape, steps + 1)
        early = begins[:, :stored].unsqueeze(2) == boundaries[: newest + 1]
        counts[:, :, : newest + 1] = outlives[:, :, :stored] @ early.to(outlives.dtype)
        counts[:, :, newest + 1 :] = outlives[:, :, stored : slots - newest]
        pushed_out = (counts.cumsum(2) >= places) & (begins.unsqueeze(2) <= boundaries)
        return pushed_out.transpose(1, 2)


def written_in(known: LayerMemory, clock: Clock) -> Int[Tensor, "B S"]:
    """When each memory stored or new was written, in times since the segment began."""
    stored = known.live.shape[1] - clock.steps.shape[1]
    return torch.cat([known.birth[:, :stored] - clock.time0.unsqueeze(1), clock.steps], 1)


def see(query: Float[Tensor, "B H T K"], known: LayerMemory, clock: Clock) -> Sight:
    """All steps of a segment, looking at every memory stored or new."""
    written = written_in(known, clock)
    return Sight(query, known.key, known.value, known.span, written, known.live, clock.steps, clock.since)


class Usage(NamedTuple):
    """Which memories were in use, how often late (attention.used_memories), and how many memories are either."""

    used: Bool[Tensor, "B S"]
    late: Int[Tensor, "B S"]
    used_count: int
    late_count: int


class Kept(NamedTuple):
    """Which memories each step of a segment could see; with blocks, B are the blocks and S what they look at."""

    predicted: Float[Tensor, "B S"]
    """The spans as they were predicted."""
    span: Float[Tensor, "B S"]
    """The spans that attention saw, which random shortening clamps."""
    mask: Float[Tensor, "B T S"]
    """How visible each memory was; 0 outside the step's episode, after the step, and once evicted."""
    ending: Float[Tensor, "rows slots"]
    """The mask at the last step before it is clamped, as deletion goes by: without blocks and random shortening."""
    weights: Float[Tensor, "B H T S"]
    """How each step's attention was shared out among them."""
    written: Int[Tensor, "B S"]
    """When they were written, in times since the segment began."""
    steps: Int[Tensor, "B T"]
    """When the steps were, in the same times."""
    all_written: Int[Tensor, "rows slots"]
    """When every memory stored or new was written, without blocks."""
    evicted: Bool[Tensor, "rows boundaries slots"] | None
    """Which ones the capacity had pushed out before the segment and after each step; None where it can't have."""
    blocks: Blocks | None

    def in_use(self, ramp: float) -> Usage:
        """Which memories were in use at some step of the segment, and which late."""
        used, late = used_memories(self.weights, self.written, self.steps, self.predicted, ramp)
        if self.blocks is None:
            return Usage(used, late, int(used.sum()), int((late > 0).sum()))
        used, count = self.blocks.anywhere(used)
        return Usage(used, late, count, self.blocks.anywhere(late > 0)[1])


def survivors(known: LayerMemory, kept: Kept, clock: Clock, ramp: float, keep_expired: bool) -> LayerMemory:
    """The memories, detached, that a step after the segment could still see (all of the episode if `keep_expired`)."""
    known = known.map(torch.Tensor.detach) if known.key.requires_grad else known
    live = known.live & (kept.all_written >= clock.since[:, -1:])
    if not keep_expired:
        live = live & (kept.ending > 1 / ramp)
        if kept.evicted is not None:
            live = live & ~kept.evicted[:, -1]
    return replace(known, live=live)


def trace_layer(known: LayerMemory, kept: Kept, clock: Clock, ramp: float, attention: bool) -> LayerTrace:
    """What the layer kept at each step of the segment."""
    evicted = torch.full_like(clock.time, -1)
    if kept.evicted is not None:
        gone, predicted, birth = kept.evicted[:, 1:], known.span.detach(), known.birth
        if kept.blocks is not None:
            gone = kept.blocks.narrow_pairs(gone)
            predicted, birth = (x.flatten()[kept.blocks.slot] for x in (predicted, birth))
        outlasts = fading(predicted, kept.written, kept.steps, ramp) > 1 / ramp
        pushed_out = (kept.mask > 0) & gone & outlasts
        evicted = torch.where(pushed_out, birth.unsqueeze(1), -1).amax(2).view_as(clock.time)
    span = known.span[:, -clock.time.shape[1] :].detach()
    shares = AttentionTrace(weight=kept.weights.detach().mean(1), birth=known.birth.clone()) if attention else None
    lifetime, live = (span + ramp).ceil().long(), kept.mask.sign().sum(2).long().view_as(clock.time)
    return LayerTrace(span=span, lifetime=lifetime, live=live, evicted=evicted, attention=shares)
