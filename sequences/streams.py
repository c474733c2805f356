"""What every task is to a model: B streams of tokens side by side, read T steps at a time.

Memory is carried from one window to the next, so a window goes on where the last one ended.  Any split of the same
steps into windows gives the same tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64

from .. import processes

IGNORED = -1
"""The target of a step that is not scored."""


class Window(NamedTuple):
    """The next T steps of every stream."""

    tokens: Int64[np.ndarray, "B T"]
    targets: Int64[np.ndarray, "B T"]
    """Class to predict at each step, having read its token; IGNORED where nothing is scored."""
    resets: Bool[np.ndarray, "B T"]
    """Whether a step is the first of a document or episode: nothing from before it may be seen."""


@runtime_checkable
class Stream(Protocol):
    """B streams of tokens that can be stopped and resumed."""

    vocabulary: int
    """Tokens are 0 to vocabulary - 1."""
    classes: int
    """Targets are 0 to classes - 1, or IGNORED."""
    batch_size: int
    """Streams side by side (B)."""

    def read(self, steps: int) -> Window:
        """The next steps of every stream, at least one."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where the streams stand, as named arrays; a single number is an array of shape []."""
        ...

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on, to the bit, from the `state_dict` of a stream that was made with the same arguments.

        Raises ValueError, and changes nothing, where an array is of another name, type, shape or range.
        """
        ...


class OwnRows:
    """The rows of this process: a block of B / N of those of a stream, which every process reads as a whole.

    So where it stands is the same in all N of them, and another number of processes can go on from it.

    Raises ValueError where the rows can't be shared out evenly.
    """

    def __init__(self, whole: Any) -> None:
        if whole.batch_size % processes.count():
            rule = f"a multiple of the {processes.count()} processes"
            raise ValueError(f"Expect `batch_size` to be {rule}, actual: {whole.batch_size}")
        self.whole = whole
        self.vocabulary, self.classes = whole.vocabulary, whole.classes
        self.batch_size = whole.batch_size // processes.count()

    @property
    def ended(self) -> bool:
        """Whether all of a stream that ends has been read, which is so in all processes at once."""
        return self.whole.ended

    def read(self, steps: int) -> Window:
        """The next steps of these rows."""
        first = processes.rank() * self.batch_size
        return Window(*(part[first : first + self.batch_size] for part in self.whole.read(steps)))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where the whole stream stands."""
        return self.whole.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict` (`Stream`), of any number of processes."""
        self.whole.load_state_dict(state)


def own_rows(stream: Any) -> Any:
    """The rows of a stream that this process reads: the stream itself where it is alone.  Raises as `OwnRows` does."""
    return stream if processes.count() == 1 else OwnRows(stream)


def join(windows: list[Window]) -> Window:
    """Successive windows as one."""
    return (
        windows[0] if len(windows) == 1 else Window(*(np.concatenate(parts, 1) for parts in zip(*windows, strict=True)))
    )


def check_state(
    state: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[Any, Any]]
) -> None:
    """Raise ValueError unless a state has the names, types and shapes of `own`, with numbers in their ranges.

    Ranges include both ends; an array without one may hold any finite numbers.
    """
    if other := own.keys() ^ state.keys():
        raise ValueError(f"Expect the arrays {', '.join(own)}, actual: one more or less, {', '.join(sorted(other))}")
    for name, array in own.items():
        kind, found = (f"{a.dtype} {list(a.shape)}" for a in (array, state[name]))
        if found != kind:
            raise ValueError(f"Expect the array `{name}` to be {kind}, actual: {found}")
        low, high = ranges.get(name, (-np.finfo(float).max, np.finfo(float).max))
        values = state[name][~((state[name] >= low) & (state[name] <= high))]
        if values.size:
            raise ValueError(f"Expect the array `{name}` to be from {low} to {high}, actual: {values[0]}")
