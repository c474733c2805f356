"""Attention of a segment in blocks of steps, each over the memories that it can see.

A segment of T steps over S stored memories has T (S + T) pairs, of which an agent at its budget can see a small part:
most memories of the segment itself expire within it.  So the steps are cut into blocks, the memories that some step of
a block can see are gathered for it, and the blocks of all rows stand in for the rows: the same formulas on fewer pairs.
Pairs that are left out have m = 0.  Where little could be left out, nothing is cut.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .span import fading

BLOCK = 16
"""Steps of a block."""
WORTHWHILE = 0.6
"""Segments are cut where the blocks look at less than this share of all memories: gathering has its price."""


class Sight(NamedTuple):
    """Steps that look, and the memories that they look at.  Times are those since the segment began."""

    query: Float[Tensor, "B H T K"]
    key: Float[Tensor, "B H S K"]
    value: Float[Tensor, "B H S K"]
    span: Float[Tensor, "B S"]
    written: Int[Tensor, "B S"]
    live: Bool[Tensor, "B S"]
    steps: Int[Tensor, "B T"]
    since: Int[Tensor, "B T"]

    def visible(self) -> Bool[Tensor, "B T S"]:
        """Which memories are live, of the step's episode and not written after it."""
        written = self.written.masked_fill(~self.live, 2**62).unsqueeze(1)
        return (written <= self.steps.unsqueeze(2)) & (written >= self.since.unsqueeze(2))


class Blocks(NamedTuple):
    """Which memories each block looks at."""

    slot: Int[Tensor, "blocks seen"]
    """Their places among those of all rows, row after row."""

    def narrow(self, sight: Sight) -> Sight:
        """The blocks as rows."""
        cut = len(self.slot) // len(sight.steps)
        _, heads, slots, _ = sight.key.shape
        row, place = self.slot // slots, self.slot % slots
        head = row.unsqueeze(1) * heads + torch.arange(heads, device=row.device).unsqueeze(1)
        by_head = head * slots + place.unsqueeze(1)
        key, value = (
            x.flatten(0, 2).index_select(0, by_head.flatten()).unflatten(0, by_head.shape)
            for x in (sight.key, sight.value)
        )
        query = sight.query.unflatten(2, (cut, -1)).transpose(1, 2).flatten(0, 1)
        span, written, live = (x.flatten()[self.slot] for x in (sight.span, sight.written, sight.live))
        steps, since = (x.reshape(len(self.slot), -1) for x in (sight.steps, sight.since))
        return Sight(query, key, value, span, written, live, steps, since)

    def narrow_pairs(self, pairs: Bool[Tensor, "rows steps slots"]) -> Bool[Tensor, "blocks T seen"]:
        """What is known of each step and each memory of its row, for the memories that the step's block looks at."""
        rows, _, slots = pairs.shape
        by_block = pairs.unflatten(1, (len(self.slot) // rows, -1)).flatten(0, 1)
        return by_block.gather(2, (self.slot % slots).unsqueeze(1).expand(-1, by_block.shape[1], -1))

    def anywhere(self, chosen: Bool[Tensor, "blocks seen"]) -> tuple[Bool[Tensor, "blocks seen"], int]:
        """Memories chosen in some block, marked in all that look at them; and how many these are."""
        marked = torch.zeros(int(self.slot.max()) + 1, dtype=torch.bool, device=chosen.device)
        marked[self.slot[chosen]] = True
        return marked[self.slot], int(marked.sum())


def choose_blocks(sight: Sight, ramp: float, gone: Bool[Tensor, "rows steps slots"] | None) -> Blocks | None:
    """The blocks of a segment; None where they are not worth while, or its steps are not a multiple of `BLOCK`.

    `gone` tells which memories each step can't see although they have not expired.
    """
    rows, count = sight.steps.shape
    slots = sight.live.shape[1]
    if count <= BLOCK or count % BLOCK:
        return None
    first, last = sight.steps[:, ::BLOCK], sight.steps[:, BLOCK - 1 :: BLOCK].unsqueeze(2)
    since, written = sight.since[:, ::BLOCK].unsqueeze(2), sight.written.unsqueeze(1)
    unexpired = fading(sight.span.detach(), sight.written, first, ramp) > 0
    needed = sight.live.unsqueeze(1) & (written <= last) & (written >= since) & unexpired
    if gone is not None:
        needed = needed & ~gone[:, ::BLOCK]
    seen = int(needed.sum(2).max())
    if seen > WORTHWHILE * slots:
        return None
    slot = needed.to(torch.uint8).argsort(dim=2, descending=True)[:, :, :seen]
    offset = torch.arange(rows, device=slot.device).view(-1, 1, 1) * slots
    return Blocks((slot + offset).flatten(0, 1))
