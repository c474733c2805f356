"""What every memory core has in common: one function over time, used to act, to train and to analyse.

The dimension key of the project: B sequences (environments), T steps of a segment, S stored memories, H heads, D model
width, K head width, L maximum span, R ramp, M steps with a position.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@runtime_checkable
class State(Protocol):
    """What a core carries from one call to the next; rows are environments."""

    def rows(self, index: Tensor) -> "State":
        """The state of some rows only, [B] -> [len(index)]."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored to continue later: named tensors, without what `MemoryCore.refresh` can derive."""
        ...


S = TypeVar("S", bound=State)


@dataclass(frozen=True, kw_only=True)
class AttentionTrace:
    """What the steps of a segment attended to in one layer, over the S memories that were stored or new."""

    weight: Float[Tensor, "B T S"]
    """Share of each memory in what a step read, the mean over heads; 0 for what it could not see."""
    birth: Int[Tensor, "B S"]
    """Episode time at which each memory was written."""


@dataclass(frozen=True, kw_only=True)
class LayerTrace:
    """What one layer kept during a segment."""

    span: Float[Tensor, "B T"]
    """Predicted span in steps of the memory written at each step."""
    lifetime: Int[Tensor, "B T"]
    """Steps at which that memory is visible unless it is evicted, the one that writes it included."""
    live: Int[Tensor, "B T"]
    """Live memories at each step: those with m > 0, the step's own included."""
    evicted: Int[Tensor, "B T"]
    """Episode time at which the memory was written that the capacity pushed out after each step; -1 for none."""
    attention: AttentionTrace | None = None
    """Only on request, as it is large."""


class Spared(NamedTuple):
    """What is known of the memories in use (attention.py): a head gave them at least half of its attention."""

    overdue: Float[Tensor, ""]
    """The rent of spans in whose second half a memory was used (span.py), which going up its gradient lengthens."""
    used: tuple[int, ...]
    """How many of each layer's memories were in use."""
    late: tuple[int, ...]
    """How many of these in the second half of their span."""


@dataclass(frozen=True, kw_only=True)
class CoreOutput(Generic[S]):
    """What a core returns for a segment."""

    y: Float[Tensor, "B T D"]
    state: S
    penalty: Float[Tensor, ""]
    """Unweighted memory penalty of the paper, summed over rows, steps and layers; 0 where a core has none."""
    rent: Float[Tensor, ""]
    """The same for a charge on every live memory, which a memory budget is kept by.  On request it spares, and even
    credits, the memories in use.  Its gradient is that of what predicts spans alone: it stops at each layer's input."""
    spared: Spared | None
    """The memories in use; only where `rent` spares them."""
    trace: tuple[LayerTrace, ...] | None
    """One entry a layer; only on request."""


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A network over the history of an episode.

    The laws that every core obeys (tests/test_core_laws.py): any split of a sequence into calls gives the same result;
    deleting what has expired changes nothing; rows are independent; the cost follows what is kept.
    """

    width: int

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """The state of rows that have seen nothing."""

    @abstractmethod
    def restore_state(self, tensors: dict[str, Tensor]) -> S:
        """A state from what `State.tensors` returned, on this core's device."""

    @abstractmethod
    def refresh(self, state: S) -> S:
        """The state with everything that depends on the weights computed anew, with gradient to the weights.

        Call it without gradient after each parameter update before acting on, and with gradient on the stored state at
        the start of a training segment.
        """

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: S,
        resets: Bool[Tensor, "B T"],
        *,
        charge: bool = True,
        trace: bool = False,
        spare_used: bool = False,
        attention: bool = False,
        keep: bool = True,
    ) -> CoreOutput[S]:
        """Read T steps.  `resets[b, t]`: step t of row b starts an episode and sees nothing from before it.

        Without `charge`, penalty and rent are left at 0: acting has no use for them.  With `spare_used`, the rent
        looks at what the whole segment attends to, so it is not the same for every split.  With `attention`, the trace
        also tells what each step attended to.  Without `keep`, what returns as the state is of no use: training needs
        none after the segment.
        """


def segment_starts(resets: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each step the index within the segment of the latest reset up to it; -1 where there is none."""
    steps = torch.arange(resets.shape[1], device=resets.device)
    return torch.where(resets, steps, -1).cummax(1).values
