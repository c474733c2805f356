"""What a layer stores: insertion, deletion, capacity.

Memories stand in slots whose order means nothing: attention ignores it and ages come from the time of birth.  New
memories are appended and the dead are cleared away when they have become a quarter of the slots, so that a step costs
what its live memories cost, whatever the age of the episode.

Capacity is a hard bound on the memories stored beyond the present step.  Where more would be stored, the one that
would expire first is evicted; of two that expire together, the older.  Since an evicted memory has `capacity` others
that outlive it, "evict the first to expire, step by step" keeps exactly those memories which fewer than `capacity`
others of the same episode outlive: no loop over time is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SLACK = 16
"""Dead slots that are always tolerated before the live ones are packed."""


@dataclass(frozen=True, kw_only=True)
class LayerMemory:
    """The stored memories of one layer.  Key, value and span follow from hidden and the weights."""

    hidden: Float[Tensor, "B S D"]
    key: Float[Tensor, "B H S K"]
    value: Float[Tensor, "B H S K"]
    span: Float[Tensor, "B S"]
    birth: Int[Tensor, "B S"]
    live: Bool[Tensor, "B S"]

    def map(self, function: Callable[[Tensor], Tensor]) -> "LayerMemory":
        """The same memories with `function` applied to every tensor."""
        return type(self)(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def joined(self, new: "LayerMemory") -> "LayerMemory":
        """These memories followed by new ones."""
        both = [(field.name, getattr(self, field.name), getattr(new, field.name)) for field in fields(self)]
        return type(self)(**{name: torch.cat([old, added], 2 if old.dim() == 4 else 1) for name, old, added in both})

    def packed_after(self, added: int) -> "LayerMemory":
        """These memories, of which `added` are new: packed where that is worth it.

        Looked at only once in `SLACK` new slots, and left as they are while a quarter and `SLACK` slots are wasted.
        """
        slots = self.live.shape[1]
        if slots // SLACK == (slots - added) // SLACK:
            return self
        needed = self._needed()
        return self if slots <= needed + needed // 4 + SLACK else self.packed()

    def _needed(self) -> int:
        return int(self.live.sum(1).max())

    def packed(self) -> "LayerMemory":
        """The live memories in as many slots as the fullest row needs."""
        slots = self._needed()
        if self.live.shape[1] == slots:
            return self
        order = self.live.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :slots]
        rows = torch.arange(order.shape[0], device=order.device).view(-1, 1, 1)
        heads = torch.arange(self.key.shape[1], device=order.device).view(1, -1, 1)
        by_head, flat = (rows, heads, order.unsqueeze(1)), (rows.squeeze(2), order)
        return self.map(lambda x: x[by_head if x.dim() == 4 else flat])


@dataclass(frozen=True, kw_only=True)
class ExpireSpanState:
    """The memories of every layer, and the clock of every row."""

    layers: tuple[LayerMemory, ...]
    time: Int[Tensor, " B"]
    """Steps since the episode began; the time of the next step unless it is a reset."""

    def rows(self, index: Tensor) -> "ExpireSpanState":
        """The state of some rows only."""
        return type(self)(
            layers=tuple(layer.map(lambda tensor: tensor[index]) for layer in self.layers), time=self.time[index]
        )

    def packed(self) -> "ExpireSpanState":
        """The same state in as few slots as it needs."""
        return type(self)(layers=tuple(layer.packed() for layer in self.layers), time=self.time)

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors: the clock, and hidden, birth and live for each layer."""
        named = {"time": self.time}
        for number, layer in enumerate(self.layers):
            for name in ("hidden", "birth", "live"):
                named[f"{number}.{name}"] = getattr(layer, name)
        return named


def outlived(
    span: Float[Tensor, "B S"], birth: Int[Tensor, "B S"], exists: Bool[Tensor, "B S"]
) -> Bool[Tensor, "B S S"]:
    """[b, i, j]: memory j exists and expires later than memory i, or with it while being younger.

    Compares e_j - e_i with the integer i - j, so that the result does not lose digits as the episode grows old.
    """
    longer = span.unsqueeze(1) - span.unsqueeze(2)
    older = birth.unsqueeze(2) - birth.unsqueeze(1)
    later = (longer > older) | ((longer == older) & (older < 0))
    return later & exists.unsqueeze(1)


def times_outlived(
    span: Float[Tensor, "B S"], birth: Int[Tensor, "B S"], exists: Bool[Tensor, "B S"]
) -> Int[Tensor, "B S"]:
    """How many memories outlive each existing one: the sum of `outlived` over j, by sorting instead of by pairs."""
    youngest = birth.argsort(dim=1, descending=True)
    expiry = (span.double() + birth).masked_fill(~exists, -torch.inf)
    order = youngest.gather(1, expiry.gather(1, youngest).argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1)
