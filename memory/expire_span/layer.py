"""One layer of the Expire-Span transformer, the clock of a segment, and what each step may see."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attention import (
    AGE_STEP,
    Positions,
    attend,
    initial_age_bias,
    position_scores,
    split_heads,
    without_unseen,
)
from ..core import AttentionTrace, LayerTrace, episode_time, segment_starts
from ..transformer import Block, Residual
from . import compiled
from .attention import NEVER, MemoryView, Reading
from .config import ExpireSpanConfig
from .slots import LayerMemory, first_to_expire, outlived
from .span import SpanPredictor, lifetime, log_mask, unclamped_mask


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


def read_clock(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"]) -> Clock:
    """Times within the episode, from the time of the first step and the resets."""
    steps = torch.arange(resets.shape[1], device=resets.device).expand_as(resets)
    start = segment_starts(resets)
    since = start.masked_fill(start < 0, NEVER)
    return Clock(steps, time0, episode_time(time0, start), start, since, torch.ones_like(resets))


def hooked(module: nn.Module) -> bool:
    """Whether something is called when this module is computed, forward or backward."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


class ExpireSpanLayer(Block):
    """One transformer layer: attention over its own memories, then a feed-forward half."""

    def __init__(self, config: ExpireSpanConfig, *, gated: bool = False) -> None:
        width = config.width
        around = {"gated": gated, "pre_norm": config.pre_norm, "dropout": config.dropout}
        super().__init__(width, config.ff_width, config.heads, **around)
        self.config = config
        self.span = SpanPredictor(width, config.max_span, config.initial_span, config.pre_div)
        self.position = self.age_weight = None
        if window := config.position_window:
            self.position = nn.Parameter(torch.zeros(config.heads, width // config.heads, window))
            self.age_weight = nn.Parameter(initial_age_bias(config.heads, window) / AGE_STEP)
        self.shape = compiled.Shape(
            width,
            config.heads,
            config.ff_width,
            config.position_window,
            config.pre_norm,
            -1 if config.places is None else config.places,
            config.newest,
            config.ramp,
            config.max_span,
            math.inf,
            config.pre_div,
            self.norm.eps,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch hands all on by position
        """As torch's; older weights hold the bias of each age itself, or none (a bias of 0), and read no counts.

        They have another name for the first norm.
        """
        for part in ("weight", "bias"):
            if f"{prefix}attention_norm.{part}" in state_dict:
                state_dict[f"{prefix}norm.{part}"] = state_dict.pop(f"{prefix}attention_norm.{part}")
        if self.age_weight is not None and f"{prefix}position" in state_dict:
            bias = state_dict.pop(f"{prefix}age_bias", torch.zeros_like(self.age_weight))
            state_dict.setdefault(f"{prefix}age_weight", bias / AGE_STEP)
        output = state_dict.get(f"{prefix}output.weight")
        if output is not None and output.shape == (self.config.width, self.config.width):
            state_dict[f"{prefix}output.weight"] = nn.functional.pad(output, (0, self.config.heads))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @property
    def positions(self) -> Positions | None:
        """What tells ages apart; None where the window is 0."""
        if self.position is None or self.age_weight is None:
            return None
        key = self.position
        if len(key) < self.config.heads:  # heads share their keys (`ExpireSpan.share_positions`)
            key = key.repeat(self.config.heads, 1, 1)
        return Positions(key, AGE_STEP * self.age_weight)

    def refresh(self, memory: LayerMemory) -> LayerMemory:
        """The same memories with keys, values and spans from the current weights.

        Where the norm is torch's, its gain and shift go into the weights: gradients end there, and none is computed for
        every memory.
        """
        width, norm, predictor, inner = self.config.width, self.norm, self.span, memory.hidden
        weight, bias = self.query_key_value.weight[width:], self.query_key_value.bias[width:]
        usual = type(norm) is nn.LayerNorm and norm.bias is not None and not hooked(norm) and not hooked(predictor)
        if self.pre_norm and usual and not torch.is_autocast_enabled(inner.device.type):
            inner = nn.functional.layer_norm(inner, (width,), eps=norm.eps)
            by_span = inner @ (predictor.weight * norm.weight) + predictor.weight @ norm.bias
            span = predictor.of_products(by_span)
            weight, bias = weight * norm.weight, bias + weight @ norm.bias
        else:
            inner = self.normed(inner)
            span = predictor(inner)
        return replace(memory, key_value=nn.functional.linear(inner, weight, bias), span=span, buffer=None)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: LayerMemory,
        clock: Clock,
        *,
        longest: float | None,
        need_weights: bool,
    ) -> tuple[Float[Tensor, "B T D"], LayerMemory, "Kept"]:
        """Output, the new memories without gradient, and which of those stored or new each step saw.

        `longest` clamps the spans that attention sees (random shortening).  With `need_weights` all pairs are
        computed, and `Kept.reading` has the weights of attention.
        """
        width, heads, ramp = self.config.width, self.config.heads, self.config.ramp
        inner = self.normed(x)
        rows, predicted = self.query_key_value(inner), self.span(inner)
        hidden, key_value, new_span = (part.detach() for part in (x, rows[..., width:], predicted))
        new = LayerMemory(hidden=hidden, key_value=key_value, span=new_span, birth=clock.time, live=clock.lives)
        span = torch.cat([memory.span.detach(), new.span], 1)
        birth, live = torch.cat([memory.birth, new.birth], 1), torch.cat([memory.live, new.live], 1)
        written = torch.cat([memory.birth - clock.time0.unsqueeze(1), clock.steps], 1)
        gone = self._evicted(span, birth, live, written, clock)
        view = MemoryView(span, birth, written, live, clock.since, gone)
        span = torch.cat([memory.span, predicted], 1)
        if longest is not None:
            span = span.clamp(max=longest)
        given = (rows, memory.key_value, span, view, heads, ramp, self.positions)
        read, reading = compiled.attend_segment(*given, need_weights, self.dropped_weights)
        return self.joined(x, self.output(read)), new, Kept(span, view, reading)

    def step(
        self,
        x: Float[Tensor, "B D"],
        memory: LayerMemory,
        time: Int[Tensor, "B 1"],
        reset: Bool[Tensor, "B 1"],
        *,
        trace: bool,
        attention: bool,
    ) -> tuple[Float[Tensor, "B D"], LayerMemory, LayerTrace | None]:
        """The same for acting: one step at `time` of the episode, without gradient.

        Nothing stored is seen where `reset`.  What returns are the memories that stay.  Without a
        segment to sort out there are fewer small operations, whose number acting is bound by, and no copies.
        """
        config, limits = self.config, (self.config.places, self.config.newest)
        places, newest = limits
        if places is not None and (memory.buffer is None or memory.buffer.limits != limits):  # it may hold more
            stored = memory.live & ~reset
            old = stored & (memory.birth < time - newest)
            expiry = memory.birth + lifetime(memory.span, config.ramp)
            pushed_out = old & (outlived(expiry, memory.birth, old).sum(2) >= places)
            memory = replace(memory, live=stored & ~pushed_out)
        memory = memory.with_space(limits)
        in_c = self._for_c(x, memory, attention)
        made = compiled.step(*in_c, x, memory, time, reset) if in_c else self._step(x, memory, time, reset)
        shown = None
        if trace:
            shares = None
            if made.shares is not None:
                shares = AttentionTrace(weight=made.shares, birth=made.memory.birth.clone())
            shown = LayerTrace(
                span=made.span.unsqueeze(1),
                lifetime=lifetime(made.span, config.ramp).unsqueeze(1),
                live=made.live,
                evicted=made.evicted,
                attention=shares,
            )
        return made.y, made.memory, shown

    def _step(
        self, x: Float[Tensor, "B D"], memory: LayerMemory, time: Int[Tensor, "B 1"], reset: Bool[Tensor, "B 1"]
    ) -> compiled.Step:
        """`compiled.step`, and each memory's share in what was read."""
        ramp, heads, width = self.config.ramp, self.config.heads, self.config.width
        places, newest = self.config.places, self.config.newest
        inner = self.normed(x)
        rows, span = self.query_key_value(inner), self.span(inner)
        known = replace(memory, live=memory.live & ~reset).with_one_more(x, rows[:, width:], span, time.squeeze(1))
        age, lives = time - known.birth, lifetime(known.span, ramp)
        visible = known.live & (age < lives)
        bias, _ = log_mask(unclamped_mask(known.span, age, ramp), visible)
        bias = bias.unsqueeze(1).unsqueeze(1)
        query = split_heads(rows[:, :width].unsqueeze(1), heads)
        if self.positions is not None:
            bias = bias + position_scores(query, self.positions, age.unsqueeze(1))
        key_value = without_unseen(known.key_value, visible.unsqueeze(1))
        key, value = (split_heads(part, heads) for part in key_value.split(width, 2))
        read, weights = attend(query, key, value, bias, self.dropped_weights)
        y = self.joined(x, self.output(read.squeeze(1)))
        stays, evicted = known.live & (age + 1 < lives), torch.full_like(time, -1)
        if places is not None and known.taken > places:
            old = known.live & (known.birth <= time - newest)
            slot = first_to_expire(known.birth + lives, known.birth, old)
            full = old.sum(1, keepdim=True) > places
            evicted = torch.where(full & stays.gather(1, slot), known.birth.gather(1, slot), -1)
            stays = stays.scatter(1, slot, stays.gather(1, slot) & ~full)
        live = visible.sum(1, keepdim=True)
        return compiled.Step(y, replace(known, live=stays), span, live, evicted, weights.mean(1))

    def _for_c(
        self, x: Tensor, memory: LayerMemory, shows_attention: bool
    ) -> tuple[compiled.Shape, list[Tensor | None]] | None:
        """The layer as compiled.py takes it; None where C can't compute it, or not as well.

        Submodules of another type, size or setting than `__init__` makes, and hooks, are torch's to compute.
        """
        drops = self.training and (self.dropout.p or self.attention_dropout or self.activation_dropout)
        if shows_attention or drops or not compiled.serves(x, memory.key_value):
            return None
        made: Any = self._modules  # attributes of modules are slow to look up, and a step has little to do
        feed_forward, joins = made["feed_forward"], (made["join"], made["join_feed_forward"])
        if (
            type(feed_forward) is not nn.Sequential
            or len(feed_forward) != 3
            or not all(type(j) is Residual for j in joins)
        ):
            return None
        up, activation, down = feed_forward._modules.values()
        if type(activation) is not nn.ReLU or any(map(hooked, (made["dropout"], feed_forward, activation, *joins))):
            return None
        width, ff_width, shape = self.config.width, self.config.ff_width, self.shape
        norm, feed_forward_norm, span = made["norm"], made["feed_forward_norm"], made["span"]
        parts = (
            (norm, nn.LayerNorm, (width,)),
            (made["query_key_value"], nn.Linear, (3 * width, width)),
            (span, SpanPredictor, (width,)),
            (made["output"], nn.Linear, (width, width + self.config.heads)),
            (feed_forward_norm, nn.LayerNorm, (width,)),
            (up, nn.Linear, (ff_width, width)),
            (down, nn.Linear, (width, ff_width)),
        )
        weights: list[Tensor | None] = []
        for part, kind, size in parts:
            if type(part) is not kind or hooked(part):  # a parametrised part is of another type
                return None
            weight, bias = part._parameters.get("weight"), part._parameters.get("bias")
            if weight is None or bias is None or weight.shape != size:
                return None
            weights += (weight, bias)
        if not (norm.eps == feed_forward_norm.eps == shape.epsilon):
            return None
        if span.max_span != shape.max_span or span.pre_div != shape.pre_div:
            return None
        return shape._replace(longest=span.longest), [*weights, *(self.positions or (None, None))]

    def _evicted(
        self,
        span: Float[Tensor, "B S"],
        birth: Int[Tensor, "B S"],
        live: Bool[Tensor, "B S"],
        written: Int[Tensor, "B S"],
        clock: Clock,
    ) -> Bool[Tensor, "B boundaries S"] | None:
        """Which memories the capacity has pushed out before the segment and after each step; None while it can't."""
        places, newest, slots = self.config.places, self.config.newest, birth.shape[1]
        if places is None or slots <= places:
            return None
        steps = clock.time.shape[1]
        stored = slots - steps
        episode = nn.functional.pad(clock.start, (stored, 0), value=-1)
        same_episode = episode.unsqueeze(1) == episode.unsqueeze(2)
        expiry = birth + lifetime(span, self.config.ramp)
        outlives = (outlived(expiry, birth, live) & same_episode).to(span.dtype)
        # A memory needs a place from this boundary on: 0 is before the segment, 1 after its first step.
        begins = (written + newest + 1).clamp(min=0)
        boundaries = torch.arange(steps + 1, device=begins.device)
        counts = outlives.new_zeros(*begins.shape, steps + 1)
        early = begins[:, :stored].unsqueeze(2) == boundaries[: newest + 1]
        counts[:, :, : newest + 1] = outlives[:, :, :stored] @ early.to(outlives.dtype)
        counts[:, :, newest + 1 :] = outlives[:, :, stored : slots - newest]
        pushed_out = (counts.cumsum(2) >= places) & (begins.unsqueeze(2) <= boundaries)
        return pushed_out.transpose(1, 2).contiguous()


class Kept(NamedTuple):
    """What a layer kept during a segment."""

    span: Float[Tensor, "B S"]
    """The spans that attention saw, which random shortening clamps, of the memories stored and then of the new ones."""
    view: MemoryView
    reading: Reading


def survivors(
    stored: LayerMemory, new: LayerMemory, kept: Kept, clock: Clock, ramp: float, keep_expired: bool
) -> LayerMemory:
    """The memories that a step after the segment could still see (all of the episode if `keep_expired`).

    With gradient they have no keys and values: those of the next segment follow from the weights of then.
    """
    view = kept.view
    live = view.live & (view.written >= clock.since[:, -1:])
    if not keep_expired:
        live = live & (clock.steps[:, -1:] + 1 < view.written + lifetime(view.span, ramp))
        if view.gone is not None:
            live = live & ~view.gone[:, -1]
    if torch.is_grad_enabled():
        stored, new = stored.without_keys(), new.without_keys()
    return replace(stored.map(torch.Tensor.detach).joined(new), live=live)


def trace_layer(new: LayerMemory, kept: Kept, clock: Clock, ramp: float, attention: bool) -> LayerTrace:
    """What the layer kept at each step of the segment."""
    reading, shares = kept.reading, None
    written = reading.pushed_out
    evicted = torch.where(written == NEVER, -1, written + (clock.time - clock.steps))
    if attention:
        assert reading.weights is not None
        shares = AttentionTrace(weight=reading.weights.mean(1), birth=kept.view.birth)
    lives = lifetime(new.span, ramp)
    return LayerTrace(span=new.span, lifetime=lives, live=reading.live, evicted=evicted, attention=shares)
