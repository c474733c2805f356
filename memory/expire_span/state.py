"""The state of the Expire-Span core: what the rows of a batch have in memory, taken apart, joined, moved and stored."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .slots import LayerMemory
from .state_bytes import PARTS, read_state, write_state


class StateKind(NamedTuple):
    """What a state must have in common with the core that goes on from it, and with the states it is joined to."""

    layers: int
    width: int
    dtype: torch.dtype
    device: torch.device
    has_keys: bool

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        keys = "" if self.has_keys else ", without keys and values"
        return f"{self.layers} layers of width {self.width}, {kind}, on {self.device}{keys}"


@dataclass(frozen=True, kw_only=True)
class ExpireSpanState:
    """The memories of every layer, and the clock of every row.

    A state never changes: a step returns a new one, so an earlier state can be kept, and gone on from twice.  Rows are
    the users of a server or the environments of a vector; `split` and `join` take them apart and together.
    """

    layers: tuple[LayerMemory, ...]
    time: Int[Tensor, " B"]
    """Steps since the episode began; the time of the next step unless it is a reset."""

    def rows(self, index: Int[Tensor, " chosen"]) -> "ExpireSpanState":
        """The state of the rows with these numbers only."""
        return self.map(lambda tensor: tensor.index_select(0, index))

    def map(self, function: Callable[[Tensor], Tensor]) -> "ExpireSpanState":
        """The state with `function` applied to every tensor, the clock included."""
        return ExpireSpanState(layers=tuple(layer.map(function) for layer in self.layers), time=function(self.time))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.time)

    def __getitem__(self, row: int) -> "ExpireSpanState":
        """The state of one row, in as few slots as it needs.  Raises IndexError where there is no such row."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"Expect `row` to be one of {len(self)} rows, actual: {row}")
        return self.rows(torch.tensor([row % len(self)], device=self.time.device)).compact()

    def __iter__(self) -> Iterator["ExpireSpanState"]:
        return iter(self.split())

    def split(self) -> list["ExpireSpanState"]:
        """The state of each row, in as few slots as it needs; nothing is shared with this one."""
        layers = zip(*(layer.split() for layer in self.layers), strict=True)
        times = self.time.clone().split(1)
        return [ExpireSpanState(layers=parts, time=time.clone()) for parts, time in zip(layers, times, strict=True)]

    @staticmethod
    def join(states: Sequence["ExpireSpanState"]) -> "ExpireSpanState":
        """One state of the rows of all, in their order; they may differ in rows, slots and time.

        Raises ValueError where there are none, or where they differ in layers, width, type of numbers or device.
        """
        if not states:
            raise ValueError("Expect `states` to hold at least one state, actual: none")
        for number, state in enumerate(states):
            if state.kind != states[0].kind:
                raise ValueError(
                    f"Expect all of `states` to be of one kind, as states[0] of {states[0].kind}, "
                    f"actual: states[{number}] of {state.kind}"
                )
        layers = zip(*(state.layers for state in states), strict=True)
        time = torch.cat([state.time for state in states])
        return ExpireSpanState(layers=tuple(LayerMemory.join(parts) for parts in layers), time=time)

    @property
    def kind(self) -> "StateKind":
        """What states that go on together have in common."""
        first = self.layers[0]
        width = first.key_value.shape[2] // 2 if first.has_keys else first.hidden.shape[2]
        return StateKind(len(self.layers), width, first.key_value.dtype, first.key_value.device, self.has_keys)

    @property
    def has_keys(self) -> bool:
        """Whether keys and values of the memories are there.  What a segment with gradient returns is without them.

        The core computes them from what is stored when it goes on, as `refresh` does.
        """
        return all(layer.has_keys for layer in self.layers)

    def check_keys(self) -> None:
        """Raise ValueError where keys and values are missing."""
        if not self.has_keys:
            raise ValueError(f"Expect `state` to be as `core.refresh(state)` returns it, actual: {self.kind}")

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> "ExpireSpanState":
        """The state on another device or in another floating-point type; times and `live` keep their types.

        In another type, later outputs are those of a state that was rounded to it.
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self.map(moved)

    def to_bytes(self) -> bytes:
        """The state as bytes, of the live memories alone, to store or to send; `from_bytes` reads them.

        Going on from what was read gives the same outputs to the last bit, with the same weights on the same machine.
        After an update of the weights, `core.refresh(state)` computes keys, values and spans anew.

        Raises ValueError where the state has no keys and values, as after a segment with gradient.
        """
        self.check_keys()
        entries = {"time": self.time}
        for number, layer in enumerate(self.compact().layers):
            for name, tensor in layer._tensors().items():
                dead = ~layer.live.reshape(*layer.live.shape, *[1] * (tensor.dim() - 2))
                entries[f"{number}.{name}"] = tensor.masked_fill(dead, 0)  # what was forgotten is not sent
            entries[f"{number}.live"] = layer.live
        return write_state(entries)

    @staticmethod
    def from_bytes(data: bytes, device: torch.device | str = "cpu") -> "ExpireSpanState":
        """The state that `to_bytes` wrote.  Nothing in the bytes is executed, so they may come from anybody.

        Raises ValueError that names the entry whose type, shape or value is not that of a state.
        """
        entries = read_state(data)
        layers = []
        for number in range(len(entries) // len(PARTS)):
            parts: dict[str, Any] = {name: entries[f"{number}.{name}"] for name in PARTS}
            layers.append(LayerMemory(**parts))
        return ExpireSpanState(layers=tuple(layers), time=entries["time"]).to(device)

    def forget(self, choose: Callable[[Tensor], Tensor], layers: Collection[int] | None = None) -> "ExpireSpanState":
        """The same state without some memories: deletion from outside, to see what they were good for.

        Args:
            choose: Called with the steps at which the memories of a layer were written, int [B, S]; returns which of
                them to delete, bool [B, S].
            layers: The layers concerned, from 0; all where None.
        """
        chosen = self._known_layers(layers)
        changed = (m.forget(choose(m.birth)) if number in chosen else m for number, m in enumerate(self.layers))
        return replace(self, layers=tuple(changed))

    def read(self, written: Int[Tensor, " B"]) -> tuple[LayerMemory, ...]:
        """What each layer stored of the step `written` of each row: one slot a row, not live where there is nothing."""
        return tuple(layer.read(written) for layer in self.layers)

    def write(
        self, written: Int[Tensor, " B"], contents: Sequence[LayerMemory], where: Bool[Tensor, " B"]
    ) -> "ExpireSpanState":
        """The same state in which the memories of the steps `written` hold something else in the rows `where`.

        `contents`, one for each layer, is what `read` returned, of these rows or of others.  Everything but the time of
        birth is replaced, so the span as well.  Where a layer stores no such memory, nothing changes.
        """
        pairs = zip(self.layers, contents, strict=True)
        return replace(self, layers=tuple(layer.write(written, content, where) for layer, content in pairs))

    def _known_layers(self, layers: Collection[int] | None) -> Collection[int]:
        known = range(len(self.layers))
        if layers is not None and not set(layers) <= set(known):
            raise ValueError(f"Expect `layers` to be from 0 to {len(known) - 1}, actual: {sorted(layers)}")
        return known if layers is None else layers

    def compact(self) -> "ExpireSpanState":
        """The same state in as few slots as it needs."""
        return type(self)(layers=tuple(layer.packed() for layer in self.layers), time=self.time)

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors: the clock, and hidden, birth and live for each layer."""
        named = {"time": self.time}
        for number, layer in enumerate(self.layers):
            for name in ("hidden", "birth", "live"):
                named[f"{number}.{name}"] = getattr(layer, name)
        return named
