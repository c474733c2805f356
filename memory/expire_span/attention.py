"""Attention over stored and current steps, with the expiry mask as an additive bias.

softmax(q . k + log m) is the paper's a_ti = m_ti softmax(q_t . k_i) / sum_i (...): multiplying by the mask and
renormalising is a shift of the scores by log m.  A step attends to its own memory too, so no row is ever empty (the
released code leaves the step itself out and starts with rows that have nothing to attend to).

Here all pairs of a step and a memory are computed, on any device; compiled.py does that for those that see each other.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention import Positions, attend, position_scores, split_heads, without_unseen
from .span import expiry_bias, lifetime, steps_on_ramp, unclamped_mask


class MemoryView(NamedTuple):
    """The S memories that the T steps of a segment may see, those stored and then those of the steps themselves.

    None of it has a gradient.
    """

    span: Float[Tensor, "B S"]
    """As they were predicted."""
    birth: Int[Tensor, "B S"]
    written: Int[Tensor, "B S"]
    """When they were written, in times since the segment began: those of the steps are 0, 1, ..."""
    live: Bool[Tensor, "B S"]
    since: Int[Tensor, "B T"]
    """The earliest time since the segment began of which a step may see memories."""
    gone: Bool[Tensor, "B boundaries S"] | None
    """Which ones the capacity had pushed out before the segment and after each step; None where it can't have."""


class Reading(NamedTuple):
    """Which memories the steps of a segment saw."""

    seen: Float[Tensor, "B S"]
    """At how many steps each memory was live."""
    on_ramp: Float[Tensor, "B S"]
    """At how many of these it was on its ramp."""
    used: Bool[Tensor, "B S"]
    """Whether it was in use at some step when it was older than the ramp (`used_memories`)."""
    late: Int[Tensor, "B S"]
    """At how many steps it was in use in the second half of its span."""
    live: Int[Tensor, "B T"]
    """Live memories at each step, its own included."""
    pushed_out: Int[Tensor, "B T"]
    """When the memory was written that the capacity pushed out after each step; `NEVER` for none."""
    weights: Float[Tensor, "B H T S"] | None
    """How each step's attention was shared out; only where all pairs were computed."""


NEVER = -(2**62)


def attend_segment(
    rows: Float[Tensor, "B T three_D"],
    stored: Float[Tensor, "B stored two_D"],
    span: Float[Tensor, "B S"],
    view: MemoryView,
    heads: int,
    ramp: float,
    positions: Positions | None,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "B T read"], Reading]:
    """What each step of a segment reads from the memories that it sees (`attend`), and which these are.

    `rows` are query, key and value of each step, `stored` key and value of each stored memory; `span` has the gradient.
    """
    width, written = rows.shape[2] // 3, view.written
    steps = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[:2])
    age = steps.unsqueeze(2) - written.unsqueeze(1)
    visible = view.live.unsqueeze(1) & (age >= 0) & (written.unsqueeze(1) >= view.since.unsqueeze(2))
    visible = visible & (age < lifetime(span, ramp).unsqueeze(1))
    if view.gone is not None:
        visible = visible & ~view.gone[:, :-1]
    stored = without_unseen(stored, visible[:, :, : stored.shape[1]])
    query, key, value = (split_heads(part, heads) for part in rows.split(width, 2))
    key, value = (
        torch.cat([split_heads(old, heads), new], 2)
        for old, new in zip(stored.split(width, 2), (key, value), strict=True)
    )
    unclamped = unclamped_mask((span + written).unsqueeze(1), steps.unsqueeze(2), ramp)
    bias, mask = expiry_bias(unclamped, visible)
    bias = bias.unsqueeze(1)
    if positions is not None:
        bias = bias + position_scores(query, positions, age)
    read, weights = attend(query, key, value, bias, dropout)
    used, late = used_memories(weights, written, steps, view.span, ramp)
    pushed_out = torch.full_like(steps, NEVER)
    if view.gone is not None:
        leaving = (mask > 0) & view.gone[:, 1:] & (age + 1 < lifetime(view.span, ramp).unsqueeze(1))
        pushed_out = torch.where(leaving, written.unsqueeze(1), NEVER).amax(2)
    seen = mask.sign()
    return read, Reading(
        seen=seen.sum(1),
        on_ramp=steps_on_ramp(mask).sum(1),
        used=used,
        late=late,
        live=seen.sum(2).long(),
        pushed_out=pushed_out,
        weights=weights.detach(),
    )


USED = 0.5
"""A memory is in use when a head gives it at least this share of its attention."""


def used_memories(
    weights: Float[Tensor, "B H T S"],
    written: Int[Tensor, "B S"],
    steps: Int[Tensor, "B T"],
    span: Float[Tensor, "B S"],
    ramp: float,
) -> tuple[Bool[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Which memories were in use at some step when they were older than the ramp: only they needed a span.

    And at how many steps each was in use late, in the second half of its span: a little later it would have been
    missed.  `written` and `steps` are times of the same clock.
    """
    age = steps.unsqueeze(2) - written.unsqueeze(1)
    old = (weights.detach().amax(1) >= USED) & (age > ramp)
    return old.any(1), (old & (2 * age > span.detach().unsqueeze(1))).sum(1)
