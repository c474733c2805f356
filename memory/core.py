"""What every memory core has in common: one function over time, used to act, to train and to analyse.

The dimension key of the project: B sequences (environments), T steps of a segment, S stored memories, H heads, D model
width, K head width, L maximum span, R ramp, M steps with a position.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from enum import Flag, auto
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@runtime_checkable
class State(Protocol):
    """What a core carries from one call to the next; dimension 0 of every tensor is the row (environment).

    Where it has `time`, int64 [B], the steps since each row's episode began, a critic may go by it.
    """

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def rows(self, index: Tensor) -> Any:
        """The state of some rows only, [B] -> [len(index)]."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored to continue later: named tensors, without what `MemoryCore.refresh` can derive."""
        ...

    def compact(self) -> Any:
        """The same state in as little memory as it needs."""
        ...


Own = TypeVar("Own", bound="TensorState")


class TensorState:
    """A state that is a dataclass of tensors and nothing else: its fields are its tensors."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.tensors().values())))

    def map(self: Own, function: Callable[[Tensor], Tensor]) -> Own:
        """The state with `function` applied to every tensor."""
        return type(self)(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def rows(self: Own, index: Int[Tensor, " chosen"]) -> Own:
        """The state of the rows with these numbers only."""
        return self.map(lambda tensor: tensor.index_select(0, index))

    def tensors(self) -> dict[str, Tensor]:
        """Its fields."""
        return {part.name: getattr(self, part.name) for part in fields(self)}  # pyright: ignore[reportArgumentType]  # a dataclass

    def compact(self: Own) -> Own:
        """The state itself."""
        return self


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
    """Span in steps of the memory written at each step: predicted, or the length of a window."""
    lifetime: Int[Tensor, "B T"]
    """Steps at which that memory is visible unless it is evicted, the one that writes it included."""
    live: Int[Tensor, "B T"]
    """Live memories at each step: those that it can see, its own included."""
    evicted: Int[Tensor, "B T"]
    """Episode time at which the memory was written that the capacity pushed out after each step; -1 for none."""
    attention: AttentionTrace | None = None
    """Only on request, as it is large."""


Trace = tuple[LayerTrace, ...]
"""One entry a layer."""


class Record(Flag):
    """What a core is asked to return beside its output."""

    NOTHING = 0
    STATE = auto()
    """The state after the segment."""
    LOSSES = auto()
    """The terms that the core adds to the loss."""
    TRACE = auto()
    """What its layers kept."""
    ATTENTION = auto()
    """The trace, with what each step attended to."""
    FACTS = auto()
    """What its controller goes by."""


@dataclass(frozen=True, kw_only=True)
class CoreOutput(Generic[S]):
    """What a core returns for a segment."""

    y: Float[Tensor, "B T D"]
    state: S | None = None
    """After the segment; may be None where it was not asked for."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Terms of the loss by name: unweighted scalars, summed over rows, steps and layers, so that any split of a
    sequence gives the same sum.  Who trains divides by the steps and weights them (`MemoryCore.loss_weights`)."""
    facts: Any = None
    """What the core's own controller reads; None where it was not asked for."""
    trace: Trace | None = None
    """None where it was not asked for, and of a core that keeps no memories of single steps."""


@runtime_checkable
class Controller(Protocol):
    """What decides about a core's memories during training, beside the gradient of the loss.

    The training loop calls `observe` for each minibatch before the loss is differentiated, `step` after the
    optimizer's step, and `end_update` after each update of the policy.
    """

    @property
    def budget(self) -> float | None:
        """Mean live memories per layer that it aims at; None for none."""
        ...

    @property
    def needs(self) -> Record:
        """What `observe` must find in every output of the present update."""
        ...

    def observe(self, output: CoreOutput[Any]) -> None:
        """Take note of a minibatch; outputs with a trace are those of the first pass over the data."""
        ...

    def step(self, share: float) -> None:
        """Change the core's weights by this share of what is due in the whole update."""
        ...

    def end_update(self, progress: float) -> dict[str, Any]:
        """Prepare the next update, at this share of the training.

        Returns figures by name: numbers, and tensors that are logged as histograms.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON knows it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        ...


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A network over the history of an episode.

    A core writes `initial_state` and `forward` and sets `width`; the rest has defaults.  `memory.laws.check_core` tests
    what every core obeys: any split of a sequence into calls gives the same result, rows are independent, nothing from
    before a reset is seen, and a stored state goes on as if it had not been stored.
    """

    width: int
    """Size of inputs and outputs (D)."""
    keeps_memories: ClassVar[bool] = False
    """Whether it keeps memories of single steps, so that its trace has an entry for each layer."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """The state of rows that have seen nothing."""

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: S,
        resets: Bool[Tensor, "B T"],
        *,
        record: Record = Record.STATE,
    ) -> CoreOutput[S]:
        """Read T steps.

        `resets[b, t]`: step t of row b is the first of an episode, and nothing from before it may be seen from then on.
        The state returned is detached: gradients end at the start of a segment.
        """

    def restore_state(self, tensors: dict[str, Tensor]) -> S:
        """A state from what `State.tensors` returned, on this core's device.

        Raises ValueError that names the entry whose name, type, shape or value is not that of a state of this core.
        """
        like = self.initial_state(1)
        expected = like.tensors()
        if set(tensors) != set(expected):
            raise ValueError(f"Expect the entries {', '.join(sorted(expected))}, actual: {', '.join(sorted(tensors))}")
        rows = {len(tensor) if tensor.dim() else -1 for tensor in tensors.values()}
        for name, tensor in tensors.items():
            one = expected[name]
            same_type = tensor.is_floating_point() == one.is_floating_point()
            if not same_type or tensor.shape[1:] != one.shape[1:] or len(rows) > 1 or min(rows) < 1:
                raise ValueError(
                    f"Expect `{name}` to be {one.dtype} [B, {', '.join(map(str, one.shape[1:]))}], "
                    f"actual: {tensor.dtype} {list(tensor.shape)}"
                )
            if not (tensor.isfinite() & ((tensor >= 0) | tensor.is_floating_point())).all():
                raise ValueError(f"Expect `{name}` to be finite, and at least 0 where it counts, actual: {tensor}")
        return type(like)(**{name: tensor.to(expected[name]) for name, tensor in tensors.items()})

    def refresh(self, state: S) -> S:
        """The state with everything that depends on the weights computed anew, with gradient to the weights.

        Called without gradient after each parameter update before acting on, and with gradient on the stored state at
        the start of a training segment.
        """
        return state

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the terms in `CoreOutput.losses`; 1 for those that are not named."""
        return {}

    def parameter_groups(self) -> list[tuple[str | float, list[nn.Parameter]]]:
        """Parameters whose learning rate is multiplied: by a number, or by the policy's argument of this name."""
        return []

    def controller(self, settings: Any) -> Controller | None:
        """What decides about memories during training; None where the gradient of the loss alone does.

        `settings` are those of the algorithm for it (`PressureConfig` for Expire-Span).
        """
        return None

    def check_settings(self, settings: Any) -> None:
        """Raise ValueError where a controller can't work with these settings; here, where there are any at all."""
        for setting in fields(settings):
            if getattr(settings, setting.name) != setting.default:
                raise ValueError(
                    f"Expect `{setting.name}` not to be given, as {type(self).__name__} keeps to no budget, "
                    f"actual: {getattr(settings, setting.name)}"
                )


@dataclass(frozen=True, kw_only=True)
class CoreConfig(ABC):
    """Settings of a core: a dataclass of numbers, which checkpoints store and the command line shows as options."""

    name: ClassVar[str]
    """By which `--core`, `policy_kwargs` and checkpoints know it."""

    @abstractmethod
    def build(self) -> MemoryCore[Any]:
        """A new core with these settings."""


@runtime_checkable
class Cuttable(Protocol):
    """A core whose spans can be clamped."""

    def cut(self, longest: float) -> MemoryCore[Any]:
        """A copy in which no memory lives longer than `longest` steps (and its ramp)."""
        ...


@runtime_checkable
class Editable(Protocol):
    """A state whose memories can be taken out, read and replaced one by one, by the steps that wrote them."""

    def forget(self, choose: Callable[[Tensor], Tensor], layers: Collection[int] | None = None) -> Any:
        """The same state without some memories."""
        ...

    def read(self, written: Int[Tensor, " B"]) -> Any:
        """What is stored of one step of each row."""
        ...

    def write(self, written: Int[Tensor, " B"], contents: Any, where: Bool[Tensor, " B"]) -> Any:
        """The same state with something else stored of these steps."""
        ...


def segment_starts(resets: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each step the index within the segment of the latest reset up to it; -1 where there is none."""
    steps = torch.arange(resets.shape[1], device=resets.device)
    return torch.where(resets, steps, -1).cummax(1).values


def episode_time(time0: Int[Tensor, " B"], start: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Steps since the episode began, from those of the first step, where it is no reset, and `segment_starts`."""
    steps = torch.arange(start.shape[1], device=start.device)
    return torch.where(start < 0, time0.unsqueeze(1) + steps, steps - start)


def next_time(time0: Int[Tensor, " B"], resets: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The same of the step after the segment, where it is no reset."""
    return episode_time(time0, segment_starts(resets))[:, -1] + 1


def check_segment(core: MemoryCore[Any], x: Tensor, of_state: Tensor, resets: Tensor) -> None:
    """Raise ValueError where the shapes of `x`, `resets` and a tensor of the state do not belong together."""
    rows, steps, width = x.shape
    if not steps or width != core.width or resets.shape != (rows, steps) or of_state.shape[0] != rows:
        raise ValueError(
            f"Expect `x` of shape [B, T, {core.width}] with T > 0, `resets` of shape [B, T] and `state` of B rows, "
            f"actual: {list(x.shape)}, {list(resets.shape)} and {len(of_state)}"
        )
