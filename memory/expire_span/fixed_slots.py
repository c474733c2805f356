"""Memories in a fixed number of slots: the state of a step whose shapes never change, which can be exported.

Nothing is moved and nothing grows: a memory is written to the first free slot of its row.  Where none is free, the
memory that expires first makes room, of two that expire together the older, and the row is marked as overflown.  As
long as no row is, a step returns what it would return without the limit.

The state is a dictionary of tensors: `time` int64 [B] and for each layer n from 0 `key_value_n` [B, S, 2 D], `span_n`
[B, S], `birth_n` int64 [B, S] and `live_n` bool [B, S].  All zero, it is that of rows that have seen nothing.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...checks import check_whole
from .core import ExpireSpan
from .slots import AppendBuffer, LayerMemory, first_to_expire
from .span import lifetime
from .state import ExpireSpanState

PARTS = ("key_value", "span", "birth", "live")
"""Of each layer; without `hidden`, since a step doesn't read it."""


@dataclass(frozen=True, kw_only=True)
class FixedSlots(LayerMemory):
    """The memories of one layer in a fixed number of slots."""

    ramp: float
    overflow: Bool[Tensor, " B"]
    """Rows in which a memory was pushed out for want of a slot."""

    def with_space(self, limits: object) -> "FixedSlots":
        """The same: there is no other place for them."""
        return self

    def with_one_more(
        self,
        hidden: Float[Tensor, "B D"],
        key_value: Float[Tensor, "B two_D"],
        span: Float[Tensor, " B"],
        birth: Int[Tensor, " B"],
    ) -> "FixedSlots":
        """These memories and a new one in the first free slot, or in that of the memory that expires first."""
        full = self.live.all(1, keepdim=True)
        free = (~self.live).long().argmax(1, keepdim=True)
        expiry = self.birth + lifetime(self.span, self.ramp)
        slot = torch.where(full, first_to_expire(expiry, self.birth, self.live), free)
        here = torch.arange(self.live.shape[1], device=slot.device) == slot
        return replace(
            self,
            key_value=torch.where(here.unsqueeze(2), key_value.unsqueeze(1), self.key_value),
            span=torch.where(here, span.unsqueeze(1), self.span),
            birth=torch.where(here, birth.unsqueeze(1), self.birth),
            live=self.live | here,
            overflow=full.squeeze(1),
        )


def enough_slots(core: ExpireSpan) -> int:
    """Slots that never overflow: what the capacity stores and the step's own, or all that the longest span keeps."""
    kept = math.ceil(core.config.max_span + core.config.ramp)
    return kept if core.config.capacity is None else min(kept, core.config.capacity + 1)


def fixed_slots(state: ExpireSpanState, slots: int) -> dict[str, Tensor]:
    """The state in this many slots.

    Raises ValueError where one of its rows has more memories than that, or where keys and values are missing.
    """
    check_whole("slots", slots, at_least=1)
    state.check_keys()
    tensors = {"time": state.time}
    for number, layer in enumerate(state.compact().layers):
        missing = slots - layer.live.shape[1]
        if missing < 0:
            raise ValueError(
                f"Expect `slots` to be at least {layer.live.shape[1]}, the most memories that a row has in layer "
                f"{number}, actual: {slots}"
            )
        for part in PARTS:
            tensor = getattr(layer, part)
            free = tensor.new_zeros(len(tensor), missing, *tensor.shape[2:])
            tensors[f"{part}_{number}"] = torch.cat([tensor, free], 1)
    return tensors


def as_state(core: ExpireSpan, tensors: dict[str, Tensor]) -> ExpireSpanState:
    """The state that these are the tensors of, as `core` takes it."""
    limits, layers = (core.config.places, core.config.newest), []
    for number in range(core.config.layers):
        parts: dict[str, Any] = {part: tensors[f"{part}_{number}"] for part in PARTS}
        rows, slots = parts["live"].shape
        # A buffer of the core's own limits: no more memories than its capacity are in it.
        buffer = AppendBuffer(slots, limits)
        unread = parts["key_value"][..., :0]
        overflow = parts["live"].new_zeros(rows)
        layers.append(
            FixedSlots(**parts, hidden=unread, ramp=core.config.ramp, overflow=overflow, buffer=buffer, taken=slots)
        )
    return ExpireSpanState(layers=tuple(layers), time=tensors["time"])


def as_tensors(state: ExpireSpanState) -> tuple[dict[str, Tensor], Bool[Tensor, " B"]]:
    """The tensors of the state after a step, and which rows have overflown at it in some layer."""
    tensors, overflow = {"time": state.time}, torch.zeros_like(state.time, dtype=torch.bool)
    for number, layer in enumerate(state.layers):
        assert isinstance(layer, FixedSlots)
        tensors |= {f"{part}_{number}": getattr(layer, part) for part in PARTS}
        overflow = overflow | layer.overflow
    return tensors, overflow
