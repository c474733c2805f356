"""What a layer stores: insertion, deletion, capacity.

Memories stand in slots whose order means nothing: attention ignores it and ages come from the time of birth.  New
memories are appended to a buffer with some free slots, in place; when it is full the live ones move to a new buffer, so
that a step costs what its live memories cost, whatever the age of the episode.

Capacity is a hard bound on the memories stored beyond the present step.  Some places are kept for the newest memories
(`ExpireSpanConfig.newest`), which are not evicted: whatever its span, a memory is visible over its ramp, and a layer
full of long spans would otherwise push out at once what a step reads from the one before.  Where more older ones would
be stored than the other places hold, the one that would expire first is evicted; of two that expire at the same step,
the older.  Since an evicted memory has as many others that outlive it as there are places, "evict the first to expire,
step by step" keeps exactly those memories which fewer others of the same episode outlive: no loop over time is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SLACK = 12
"""Free slots of a new buffer, beside a quarter of those it begins with."""


class AppendBuffer:
    """How many slots are taken of tensors that successive memories share.

    Writing the next slot in place is safe: `live` is False there in every earlier memory.  Writing on from an earlier
    memory a second time takes a buffer of its own (`LayerMemory.with_space`).
    """

    def __init__(self, taken: int, limits: object) -> None:
        self.taken = taken
        self.limits = limits
        """What bounds the memories written to it; under other bounds they may be too many."""


@dataclass(frozen=True, kw_only=True)
class LayerMemory:
    """The stored memories of one layer.  Keys, values and spans follow from hidden and the weights."""

    hidden: Float[Tensor, "B S D"]
    """The layer's inputs, before the norm."""
    key_value: Float[Tensor, "B S two_D"]
    """The keys of all heads, then their values; [B, S, 0] where they have to be computed first (`has_keys`)."""
    span: Float[Tensor, "B S"]
    birth: Int[Tensor, "B S"]
    live: Bool[Tensor, "B S"]
    buffer: AppendBuffer | None = None
    """Who else writes to these tensors, `live` apart, if the last slots were left free."""
    taken: int = 0
    """Slots of the buffer that were taken when this memory was made."""

    @property
    def has_keys(self) -> bool:
        """Whether keys and values are there; a segment with gradient leaves them out, as weights change after it."""
        return self.key_value.shape[2] > 0

    def without_keys(self) -> "LayerMemory":
        """The same memories without keys and values."""
        return replace(self, key_value=self.key_value[..., :0])

    def map(self, function: Callable[[Tensor], Tensor]) -> "LayerMemory":
        """The same memories with `function` applied to every tensor."""
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self._tensors().items()}
        return type(self)(**changed, live=function(self.live))

    def joined(self, new: "LayerMemory") -> "LayerMemory":
        """These memories followed by new ones."""
        ours, theirs = self._tensors(), new._tensors()
        both: dict[str, Any] = {name: torch.cat([old, theirs[name]], 1) for name, old in ours.items()}
        return type(self)(**both, live=torch.cat([self.live, new.live], 1))

    def with_space(self, limits: object) -> "LayerMemory":
        """These memories, detached, in a buffer of these limits with a free slot; the dead may be gone from it."""
        buffer = self.buffer
        if buffer is not None and buffer.limits == limits and self.taken == buffer.taken < self.live.shape[1]:
            return self
        taken = self._needed()
        moved = self._sorted(taken + 1 + taken // 4 + SLACK)
        return replace(moved, buffer=AppendBuffer(taken, limits), taken=taken)

    def with_one_more(
        self,
        hidden: Float[Tensor, "B D"],
        key_value: Float[Tensor, "B two_D"],
        span: Float[Tensor, " B"],
        birth: Int[Tensor, " B"],
    ) -> "LayerMemory":
        """These memories and a new one in the free slot that there must be, written in place."""
        assert self.buffer is not None
        slot = self.buffer.taken
        self.hidden[:, slot] = hidden
        self.key_value[:, slot] = key_value
        self.span[:, slot] = span
        self.birth[:, slot] = birth
        live = self.live.clone()
        live[:, slot] = True
        self.buffer.taken += 1
        return replace(self, live=live, taken=slot + 1)

    def forget(self, chosen: Bool[Tensor, "B S"]) -> "LayerMemory":
        """The same without the chosen memories."""
        return replace(self, live=self.live & ~chosen)

    def read(self, written: Int[Tensor, " B"]) -> "LayerMemory":
        """The memory that each row wrote at its step `written`, in one slot; not live where there is none."""
        found = self.live & (self.birth == written.unsqueeze(1))
        slot = found.long().argmax(1) if found.shape[1] else None
        if slot is None:
            return self.map(lambda x: x.new_zeros(len(x), 1, *x.shape[2:]))
        rows = torch.arange(len(slot), device=slot.device)
        memory = self.map(lambda x: x[rows, slot].unsqueeze(1))
        return replace(memory, live=found.any(1, keepdim=True))

    def write(self, written: Int[Tensor, " B"], content: "LayerMemory", where: Bool[Tensor, " B"]) -> "LayerMemory":
        """In the rows `where`, put the content of one slot, all but its birth, into the live memory of step `written`.

        Rows in which either isn't live stay as they are.  Where one has no keys and values, what comes of it has none.
        """
        if self.has_keys != content.has_keys:
            return self.without_keys().write(written, content.without_keys(), where)
        chosen = self.live & (self.birth == written.unsqueeze(1)) & (where & content.live[:, 0]).unsqueeze(1)
        whole = chosen.unsqueeze(2)
        return replace(
            self,
            hidden=torch.where(whole, content.hidden, self.hidden),
            key_value=torch.where(whole, content.key_value, self.key_value),
            span=torch.where(chosen, content.span, self.span),
            buffer=None,  # what stands there must not change: earlier states see it too
        )

    def _tensors(self) -> dict[str, Tensor]:
        """All but `live`, which changes from step to step."""
        return {name: getattr(self, name) for name in ("hidden", "key_value", "span", "birth")}

    def _needed(self) -> int:
        return int(self.live.sum(1).max())

    def packed(self) -> "LayerMemory":
        """The live memories in as many slots as the fullest row needs."""
        slots = self._needed()
        return self if self.live.shape[1] == slots else self._sorted(slots)

    def split(self) -> list["LayerMemory"]:
        """Each row's live memories in as many slots as it needs, which it shares with nobody."""
        counts = self.live.sum(1).tolist()
        picked = {name: tensor[self.live].split(counts) for name, tensor in self._tensors().items()}
        rows: list[LayerMemory] = []
        for row, count in enumerate(counts):
            own: dict[str, Any] = {name: parts[row].unsqueeze(0).clone() for name, parts in picked.items()}
            rows.append(LayerMemory(**own, live=self.live.new_ones(1, count)))
        return rows

    @staticmethod
    def join(memories: Sequence["LayerMemory"]) -> "LayerMemory":
        """The rows of all one after another; where one has fewer slots, those added are not live."""
        joined: dict[str, Any] = {}
        for name in (*memories[0]._tensors(), "live"):
            rows = [row for memory in memories for row in getattr(memory, name).unbind()]
            joined[name] = pad_sequence(rows, batch_first=True)
        return LayerMemory(**joined)

    def _sorted(self, slots: int) -> "LayerMemory":
        """A copy with the live memories first, in this many slots, which must be enough for them."""
        if not self.live.shape[1]:  # of an episode that begins
            return self.map(lambda tensor: tensor.new_zeros(len(tensor), slots, *tensor.shape[2:]))
        order = self.live.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :slots]
        missing = slots - order.shape[1]

        first = torch.arange(len(order), device=order.device).unsqueeze(1) * self.live.shape[1]
        place = (first + order).flatten()

        def chosen(tensor: Tensor) -> Tensor:
            # Whole slots by their places among those of all rows: faster than a tuple of indices.
            copied = tensor.flatten(0, 1).index_select(0, place).unflatten(0, order.shape)
            free = copied.new_zeros(len(copied), missing, *copied.shape[2:])
            return torch.cat([copied, free], 1) if missing else copied

        return self.map(chosen)


def outlived(
    expiry: Int[Tensor, "B S"], birth: Int[Tensor, "B S"], exists: Bool[Tensor, "B S"]
) -> Bool[Tensor, "B S S"]:
    """[b, i, j]: memory j exists and expires at a later step than memory i, or at the same one while being younger."""
    theirs, own = expiry.unsqueeze(1), expiry.unsqueeze(2)
    younger = birth.unsqueeze(1) > birth.unsqueeze(2)
    return ((theirs > own) | ((theirs == own) & younger)) & exists.unsqueeze(1)


def first_to_expire(
    expiry: Int[Tensor, "B S"], birth: Int[Tensor, "B S"], live: Bool[Tensor, "B S"]
) -> Int[Tensor, "B 1"]:
    """The slot of the live memory that expires at the earliest step; of those that expire together, of the oldest."""
    never = torch.iinfo(birth.dtype).max
    expiry = expiry.masked_fill(~live, never)
    first = expiry == expiry.amin(1, keepdim=True)
    return birth.masked_fill(~first, never).argmin(1, keepdim=True)
