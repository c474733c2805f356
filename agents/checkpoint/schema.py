"""What a checkpoint's document must look like, checked before anything is made of it.

Sizes are bounded here, so that a few bytes can't ask for more memory than there is.  What the settings of the algorithm
and of the core may be stands in their configurations, which check it themselves.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError

MOST_NUMBERS = 2**24
"""Of one observation or action, all parts of a dictionary together."""
LARGEST = 2**53
"""Whole numbers stay below this, so that they are exact as floats."""
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Size = Annotated[int, Meta(ge=0, le=MOST_NUMBERS)]
Rows = Annotated[int, Meta(ge=1, le=2**20)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""Finite."""
Positive = Annotated[float, Meta(ge=0, le=1e300)]
Whole = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]


Kind = TypeVar("Kind")


@contextmanager
def reading(failed: str) -> Iterator[None]:
    """Let every error in reading a file become a ValueError of one line, which begins with what failed."""
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{failed}: {shortened(error)}") from error


def shortened(error: Exception) -> str:
    """What an error says, or else its name, in one line of at most 500 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 500 else f"{said[:500]}..."


def converted(value: Any, kind: type[Kind]) -> Kind:
    """A value of JSON as this type.  Raises ValueError that names the entry, the rule and what stands there."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        rule, _, place = str(error).partition(" - at `$")
        raise ValueError(f"{rule} at `{place.strip('.`') or 'the top'}`, actual: {_at(value, place)}") from error


def _at(value: Any, place: str) -> str:
    """What stands at a place as msgspec writes it, such as `.episodes[2].r`; keys of a dictionary are not told."""
    for key, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place):
        if index == "...":
            break
        value = value[key] if key else value[int(index)]
    said = repr(value)
    return said if len(said) <= 100 else f"{said[:100]}..."


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the document, with these entries alone."""


class Box(_Struct, tag_field="type", tag="Box"):
    """`gymnasium.spaces.Box`; bounds that are all the same are one number."""

    shape: Annotated[list[Size], Meta(max_length=8)]
    dtype: Annotated[str, Meta(pattern="^(bool|float(16|32|64)|u?int(8|16|32|64))$")]
    low: Any
    high: Any


class Discrete(_Struct, tag_field="type", tag="Discrete"):
    """`gymnasium.spaces.Discrete`."""

    n: Annotated[int, Meta(ge=1, le=LARGEST)]
    start: Whole = 0
    dtype: str = "int64"


class MultiDiscrete(_Struct, tag_field="type", tag="MultiDiscrete"):
    """`gymnasium.spaces.MultiDiscrete`."""

    nvec: list[Any]
    start: Any = None
    dtype: str = "int64"


class MultiBinary(_Struct, tag_field="type", tag="MultiBinary"):
    """`gymnasium.spaces.MultiBinary`."""

    n: Size | Annotated[list[Size], Meta(max_length=8)]


class Dictionary(_Struct, tag_field="type", tag="Dict"):
    """`gymnasium.spaces.Dict`."""

    spaces: dict[str, "Space"]


Space = Box | Discrete | MultiDiscrete | MultiBinary | Dictionary


class Constant(_Struct, tag_field="schedule", tag="constant"):
    """SB3's `ConstantSchedule`."""

    val: Number


class Linear(_Struct, tag_field="schedule", tag="linear"):
    """SB3's `LinearSchedule`."""

    start: Number
    end: Number
    end_fraction: Number


class RewardScaleState(_Struct):
    """`RewardScale.state_dict()`."""

    returns: list[Number]
    mean: Number
    var: Positive
    count: Positive


class OtherProcess(_Struct):
    """What a process but the first has of its own, its tensors apart."""

    generators: list["Generator"] | None
    returns: list[Number]
    """Of `RewardScale`."""


class ControllerState(_Struct):
    """`Controller.state_dict()` of Expire-Span; others have nothing to continue from."""

    pulls: list[Number] = []
    live: list[Positive] = []
    met: list[bool] = []
    held: list[Number] = []


class Generator(_Struct):
    """The state of a NumPy generator."""

    bit_generator: Literal["PCG64"]
    state: dict[Literal["state", "inc"], int]
    has_uint32: Literal[0, 1]
    uinteger: Annotated[int, Meta(ge=0, lt=2**32)]


class Episode(msgspec.Struct):
    """SB3's record of an episode, beside whatever else a Monitor put there."""

    r: Number
    l: Number  # noqa: E741 - SB3's name


class Arguments(_Struct, kw_only=True):
    """Of the algorithm, those of its configuration and of `PressureConfig` apart."""

    policy: Literal["MemoryPolicy"] | msgspec.UnsetType = msgspec.UNSET
    policy_kwargs: dict[str, Any]
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    stats_window_size: Annotated[int, Meta(ge=1, le=LARGEST)] = 100
    tensorboard_log: str | None = None
    verbose: int | bool = 0


class Document(_Struct, kw_only=True):
    """Everything of a checkpoint that is no tensor (model.py, `describe`); later formats have more of it."""

    algorithm: str
    arguments: dict[str, Any]
    missing: list[str]
    last_values: dict[str, Number] = {}
    observation_space: Space
    action_space: Space
    n_envs: Rows
    num_timesteps: Count
    n_updates: Count
    stage: Annotated[int, Meta(ge=1, le=LARGEST)] = 1
    stage_began: Count = 0
    observations: Annotated[str, Meta(min_length=1)] | Annotated[dict[str, str], Meta(min_length=1)] | None = None
    optimizer: Annotated[str, Meta(pattern="^$|:")] = ""
    """Its class, as module:name; where another one is asked for, it begins anew."""
    episodes: list[Episode]
    successes: list[bool]
    controller: ControllerState | None
    reward_scale: RewardScaleState
    generators: list[Generator] | None
    processes: Annotated[int, Meta(ge=1, le=2**20)] = 1
    """That trained together, with `n_envs` environments each."""
    others: list[OtherProcess] = []
    """All but the first, or none of them; the tensors of process 1 are named process1/... and so on."""
    threads: Annotated[int, Meta(ge=1, le=2**16)] | None = None
    """Of torch, on which the order of sums depends."""
    pending_log: dict[str, Number] = {}
    """What was recorded of the last update, which SB3 writes after the next rollout."""


def check_document(document: Any, complete: bool) -> None:
    """Raise ValueError that names the first entry of a checkpoint's document that is not as described above.

    Documents of the present format are complete; older ones don't have all entries.
    """
    read = converted(document, Document)
    if complete:
        check_complete("the checkpoint", document, Document.__struct_fields__)
        if document["controller"]:
            check_complete("`controller`", document["controller"], ControllerState.__struct_fields__)
        if (rows := len(read.reward_scale.returns)) != read.n_envs:
            raise ValueError(f"Expect `reward_scale.returns` of {read.n_envs} environments, actual: {rows}")
    for name, space in (("observation_space", read.observation_space), ("action_space", read.action_space)):
        if (size := numbers_in(space)) > MOST_NUMBERS:
            raise ValueError(f"Expect `{name}` to hold at most {MOST_NUMBERS} numbers, actual: {size}")


def check_complete(what: str, found: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ValueError where not all of these entries are there."""
    if lost := [name for name in names if name not in found]:
        raise ValueError(f"Expect {what} to have `{lost[0]}`, actual: {', '.join(found)}")


def numbers_in(space: Space) -> int:
    """How many numbers a space's elements are made of."""
    if isinstance(space, Dictionary):
        return sum(numbers_in(part) for part in space.spaces.values())
    if isinstance(space, MultiBinary):
        return prod(space.n) if isinstance(space.n, list) else space.n
    if isinstance(space, MultiDiscrete):
        return np.size(space.nvec)
    return prod(space.shape) if isinstance(space, Box) else 1
