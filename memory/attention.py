"""Attention over memories: scores with an additive bias, what tells ages apart, and how much has been read.

Shared by all cores that attend.  All pairs of a step and a memory are computed, on any device.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Positions(NamedTuple):
    """What tells ages apart."""

    key: Float[Tensor, "H K M"]
    """Of each age below M steps."""
    bias: Float[Tensor, "H ages"]
    """Of each of these ages, and of all others (M + 1 in all)."""


def position_scores(
    query: Float[Tensor, "B H T K"], positions: Positions, age: Int[Tensor, "B T S"]
) -> Float[Tensor, "B H T S"]:
    """What being `age` steps old adds to a memory's score: b_age + q_t . p_age / sqrt(K), and b_M for all age >= M."""
    position, age_bias = positions
    window = position.shape[-1]
    by_age = torch.nn.functional.pad(query @ position * query.shape[-1] ** -0.5, (0, 1))  # the last: older than M
    by_age = by_age + age_bias.unsqueeze(1)
    return by_age.gather(-1, age.clamp(0, window).unsqueeze(1).expand(-1, position.shape[0], -1, -1))


def initial_age_bias(heads: int, window: int) -> Float[Tensor, "H ages"]:
    """The bias of each age from 0 to `window` before training: 0, but for the first half of the heads.

    There it is that of ALiBi (Press et al., 2022), -slope * age with slopes 1, 1/4, 1/16, ...: attention begins as an
    average over the last few steps, from which the step itself differs by how fast things move.
    """
    slopes = torch.tensor([4.0**-head if head < heads // 2 else 0.0 for head in range(heads)])
    return -slopes.unsqueeze(1) * torch.arange(window + 1)


AGE_STEP = 10.0
"""The bias of an age is a layer's `age_weight` times this, so Adam moves it by ten times the learning rate.  It takes a
bias of about 4 for one age to have half of the attention among 64: 6,000 steps of 7e-4, or 600."""


COUNT_STEP = 4.0
"""What a step reads of its own counts is this times log sum exp(scores), head by head: Adam moves what a network makes
of a count by as many times the learning rate."""


def split_heads(rows: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B H T K"]:
    """The parts of each row that belong to each head."""
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def without_unseen(memories: Float[Tensor, "B S D"], visible: Bool[Tensor, "B T S"]) -> Float[Tensor, "B S D"]:
    """The memories with zeros in place of those that no step sees: NaN in them times a weight of 0 would be NaN."""
    return memories.masked_fill(~visible.any(1).unsqueeze(2), 0)


def attend(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H S K"],
    value: Float[Tensor, "B H S K"],
    bias: Float[Tensor, "B #H T S"],
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "B T read"], Float[Tensor, "B H T S"]]:
    """Multi-head attention over the scores q . k / sqrt(K) + bias: what is read, and the weights softmax(scores).

    What is read (D + H numbers) are the averages of all heads, and then COUNT_STEP * log sum_i exp(score_i) of each
    head: an average alone is the same however often something has been seen.  With `dropout` the averages, and only
    they, are of weights of which this share is dropped.
    """
    scores = query @ key.mT * query.shape[-1] ** -0.5 + bias
    weights = torch.softmax(scores, dim=-1)
    averages = (torch.nn.functional.dropout(weights, dropout) @ value).transpose(1, 2).flatten(2)
    return torch.cat([averages, COUNT_STEP * scores.logsumexp(-1).transpose(1, 2)], -1), weights
