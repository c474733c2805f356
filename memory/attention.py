"""Attention over stored and current steps, with the expiry mask as an additive bias.

softmax(q . k + log m) is the paper's a_ti = m_ti softmax(q_t . k_i) / sum_i (...): multiplying by the mask and
renormalising is a shift of the scores by log m.  A step attends to its own memory too, so no row is ever empty (the
released code leaves the step itself out and starts with rows that have nothing to attend to).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def position_scores(
    query: Float[Tensor, "B H T K"], position: Float[Tensor, "H K M"], age: Int[Tensor, "B T S"]
) -> Float[Tensor, "B H T S"]:
    """Score of each memory for being `age` steps old: q_t . p_age / sqrt(K) for age < M, 0 for older ones."""
    window = position.shape[-1]
    by_age = torch.nn.functional.pad(
        query @ position * query.shape[-1] ** -0.5, (0, 1)
    )  # the last column: older than M
    index = age.clamp(0, window).unsqueeze(1).expand(-1, position.shape[0], -1, -1)
    return by_age.gather(-1, index)


def attend(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H S K"],
    value: Float[Tensor, "B H S K"],
    bias: Float[Tensor, "B T S"] | Float[Tensor, "B H T S"],
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T S"]]:
    """Multi-head attention: weights softmax(q . k / sqrt(K) + bias), and what they read, before them.

    A bias [B, T, S] serves all heads.
    """
    rows, heads, steps, width = query.shape
    if bias.dim() == 3:
        bias = bias.unsqueeze(1).expand(-1, heads, -1, -1)
    bias = bias.reshape(rows * heads, steps, -1)
    scores = torch.baddbmm(bias, query.flatten(0, 1), key.flatten(0, 1).mT, alpha=width**-0.5)
    weights = torch.softmax(scores, dim=-1)
    return (weights @ value.flatten(0, 1)).unflatten(0, (rows, heads)), weights.unflatten(0, (rows, heads))


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
    row, step, slot = (weights.detach().amax(1) >= USED).nonzero(as_tuple=True)  # few of all pairs
    age = steps[row, step] - written[row, slot]
    old, late = age > ramp, (age > ramp) & (2 * age > span.detach()[row, slot])
    used, times_late = torch.zeros_like(written, dtype=torch.bool), torch.zeros_like(written)
    used[row[old], slot[old]] = True
    times_late.index_put_((row[late], slot[late]), times_late.new_ones(()), accumulate=True)
    return used, times_late
