"""Recurrent cores: PyTorch's LSTM and GRU, whose state has a fixed size and holds no memories of single steps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from ..checks import check_sizes
from .core import CoreConfig, CoreOutput, MemoryCore, Record, TensorState, check_segment, next_time


@dataclass(frozen=True, kw_only=True)
class _RecurrentConfig(CoreConfig):
    layers: int = 1
    """Recurrent layers, one above the other."""
    width: int = 64
    """Size of inputs, outputs and of each layer's state (D)."""

    def __post_init__(self) -> None:
        check_sizes(self, "layers", "width")


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(_RecurrentConfig):
    """Shape of the LSTM."""

    name: ClassVar[str] = "lstm"

    def build(self) -> "Recurrent":
        """A new core with these settings."""
        return Recurrent(nn.LSTM(self.width, self.width, self.layers, batch_first=True), parts=2)


@dataclass(frozen=True, kw_only=True)
class GRUConfig(_RecurrentConfig):
    """Shape of the GRU."""

    name: ClassVar[str] = "gru"

    def build(self) -> "Recurrent":
        """A new core with these settings."""
        return Recurrent(nn.GRU(self.width, self.width, self.layers, batch_first=True), parts=1)


@dataclass(frozen=True, kw_only=True)
class Hidden(TensorState):
    """What a recurrent network carries on."""

    hidden: Float[Tensor, "B parts layers D"]
    """h of every layer, and of an LSTM c as the second part."""
    time: Int[Tensor, " B"]
    """Steps since the episode began."""


class Recurrent(MemoryCore[Hidden]):
    """One of PyTorch's recurrent networks, begun anew at every reset.

    A segment is cut into the pieces between resets, which go through the network side by side.
    """

    def __init__(self, network: nn.LSTM | nn.GRU, parts: int) -> None:
        super().__init__()
        self.network, self.parts = network, parts
        self.width = network.hidden_size

    def initial_state(self, batch_size: int) -> Hidden:
        """Zeros."""
        like = next(self.network.parameters())
        return Hidden(
            hidden=like.new_zeros(batch_size, self.parts, self.network.num_layers, self.width),
            time=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Hidden,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[Hidden]:
        """Read T steps."""
        check_segment(self, x, state.hidden, resets)
        hidden = state.hidden.masked_fill(resets[:, 0].view(-1, 1, 1, 1), 0)
        if resets[:, 1:].any():
            y, hidden = self._pieces(x, hidden, resets)
        else:
            y, hidden = self._run(x, hidden)
        return CoreOutput(y=y, state=Hidden(hidden=hidden.detach(), time=next_time(state.time, resets)))

    def _run(self, x: Any, hidden: Float[Tensor, "N parts layers D"]) -> tuple[Any, Float[Tensor, "N parts layers D"]]:
        """N sequences, padded or packed, each from its own hidden state."""
        before = [part.contiguous() for part in hidden.permute(1, 2, 0, 3)]
        y, after = self.network(x, tuple(before) if self.parts == 2 else before[0])
        return y, torch.stack(after if self.parts == 2 else (after,)).permute(2, 0, 1, 3)

    def _pieces(
        self, x: Float[Tensor, "B T D"], hidden: Float[Tensor, "B parts layers D"], resets: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B parts layers D"]]:
        """The same where some step but the first is a reset: every piece between resets is a sequence of its own."""
        begins = resets.clone()
        begins[:, 0] = True
        first: Int[Tensor, " pieces"] = begins.flatten().nonzero().squeeze(1)  # of the steps of all rows in a line
        length = first.diff(append=first.new_tensor([resets.numel()]))
        before = hidden.new_zeros(len(first), *hidden.shape[1:])
        whose, last = first // resets.shape[1], begins.sum(1).cumsum(0) - 1
        carried = first % resets.shape[1] == 0
        before = torch.where(carried.view(-1, 1, 1, 1), hidden[whose], before)
        padded = pad_sequence(list(x.flatten(0, 1).split(length.tolist())), batch_first=True)
        packed = pack_padded_sequence(padded, length.cpu(), batch_first=True, enforce_sorted=False)
        y, after = self._run(packed, before)
        assert isinstance(y, PackedSequence)
        padded_y, _ = pad_packed_sequence(y, batch_first=True)
        real = torch.arange(padded_y.shape[1], device=x.device) < length.unsqueeze(1)
        return padded_y[real].view_as(x), after[last]
