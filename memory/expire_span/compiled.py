"""What is computed in C on CPUs (kernels.c): attention over a segment, with its gradient, and a whole acting step.

A trained agent sees some twenty of the hundreds of memories that a segment holds.  `attend_segment` looks only at the
pairs that can see each other, and counts on the way what the charges for memory need.  A step has so little to compute
that most of its time would go between operations, so `step` computes a whole layer of Expire-Span in one call.

attention.py and layer.py compute the same from torch's operations: where the library was not built, on other devices,
for other types of numbers, and where attention weights are asked for.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..attention import Positions
from . import attention
from .attention import NEVER, MemoryView, Reading
from .slots import LayerMemory

VERSION = 10
"""Of kernels.c."""
TYPES = {torch.float32: "float", torch.float64: "double"}
BUILDS = {"AVX512": ("_kernels_avx512", "_kernels_avx2", "_kernels"), "AVX2": ("_kernels_avx2", "_kernels")}
"""The libraries that a CPU can run, best first, by what torch calls its instructions."""


def builds() -> list[Path]:
    """The libraries that were built and that this CPU can run, best first."""
    folder = Path(__file__).parent
    names = BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("_kernels",))
    paths = (folder / (name + suffix) for name in names for suffix in EXTENSION_SUFFIXES)
    return [path for path in paths if path.is_file()]


@cache
def load(path: Path) -> ctypes.CDLL | None:
    """A library whose functions know their arguments; None if it can't be loaded or comes from another kernels.c."""
    try:
        library = ctypes.CDLL(str(path))
        if library.kernels_version() != VERSION:
            return None
    except (OSError, AttributeError):
        return None
    for name, (numbers, addresses) in FUNCTIONS.items():
        for kind in TYPES.values():
            arguments = [ctypes.c_void_p, *[ctypes.c_int64] * numbers, *[ctypes.c_void_p] * addresses]
            getattr(library, f"{name}_{kind}").argtypes = arguments
    return library


@cache
def library() -> ctypes.CDLL | None:
    """The best library; None where there is none."""
    return next((found for found in map(load, builds()) if found is not None), None)


FUNCTIONS = {"read": (0, 9), "read_backward": (0, 9), "act": (3, 13)}
"""How many numbers and how many addresses each function takes after the address of a segment or a layer."""


def serves(x: Tensor, stored: Tensor) -> bool:
    """Whether what is made from `x` and from what is stored can be computed here."""
    return (
        x.is_cpu
        and x.dtype in TYPES
        and stored.dtype is x.dtype
        and library() is not None
        and not torch.compiler.is_exporting()
        and not torch.is_autocast_enabled("cpu")
    )


class Shape(NamedTuple):
    """What the library must know of a layer beside its weights, in its order."""

    width: int
    heads: int
    ff_width: int
    position_window: int
    pre_norm: bool
    places: int
    """Of the capacity, those that older memories share; -1 for no bound."""
    newest: int
    ramp: float
    max_span: float
    longest: float
    """To which spans are clamped; infinity for no bound."""
    pre_div: float
    epsilon: float
    """Of the layer norms."""


WEIGHTS = 16


_Layer = type(
    "Layer",
    (ctypes.Structure,),
    {
        "_fields_": [
            *((name, ctypes.c_int64) for name in Shape._fields[:7]),
            *((name, ctypes.c_double) for name in Shape._fields[7:]),
            *((f"weight_{number}", ctypes.c_void_p) for number in range(WEIGHTS)),
        ]
    },
)
"""`Layer` of kernels.c."""
_Segment = type(
    "Segment",
    (ctypes.Structure,),
    {
        "_fields_": [
            *((name, ctypes.c_int64) for name in ("B", "T", "S0", "H", "K", "M")),
            ("ramp", ctypes.c_double),
            *((f"array_{number}", ctypes.c_void_p) for number in range(10)),
        ]
    },
)
"""`Segment` of kernels.c."""


@cache
def _weight_shapes(shape: Shape) -> tuple[tuple[int, ...], ...]:
    """Of all weights, in the order of `Layer` of kernels/layer.h."""
    width, heads, ff_width, window = shape[:4]
    norm, rows = [(width,)] * 2, [(3 * width, width), (3 * width,)]
    output = [(width, width + heads), (width,)]
    feed_forward = [(ff_width, width), (ff_width,), (width, ff_width), (width,)]
    positions = [(heads, width // heads, window), (heads, window + 1)]
    return (*norm, *rows, (width,), (), *output, *norm, *feed_forward, *positions)


def _layer(shape: Shape, weights: Sequence[Tensor | None], dtype: torch.dtype) -> Any:
    addresses = [
        None if weight is None else _address(f"weight {number}", weight, dtype, expected)
        for number, (weight, expected) in enumerate(zip(weights, _weight_shapes(shape), strict=True))
    ]
    if None in addresses[:-2] or (None in addresses[-2:]) != (shape.position_window == 0):
        raise ValueError(f"Expect all weights of a layer, actual: None among {len(weights)}")
    return ctypes.byref(_Layer(*shape, *addresses))


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the library.  Tensors among the arguments were made here, for it."""
    function = getattr(library(), f"{name}_{TYPES[dtype]}")
    if not function(*[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]):
        raise MemoryError(f"{name}: no memory left")


def _address(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Where the numbers of a tensor stand.  Raises ValueError where they are not what the library takes them for."""
    if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
        actual = f"{tensor.dtype} {list(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
        raise ValueError(f"Expect `{name}` to be contiguous {dtype} {list(shape)} on the CPU, actual: {actual}")
    return tensor.data_ptr()


NONE = (None, None)


def attend_segment(
    rows: Float[Tensor, "B T three_D"],
    stored: Float[Tensor, "B stored two_D"],
    span: Float[Tensor, "B S"],
    view: MemoryView,
    heads: int,
    ramp: float,
    positions: Positions | None,
    need_weights: bool,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "B T read"], Reading]:
    """As `attention.attend_segment`, in C where it can be.

    With `need_weights` or `dropout` torch computes all pairs, and `Reading.weights` is set.
    """
    if need_weights or dropout or not serves(rows, stored):
        return attention.attend_segment(rows, stored, span, view, heads, ramp, positions, dropout)
    arrays = [array if array is None else array.contiguous() for array in (rows, stored, span, *(positions or NONE))]
    read, *counts = _Attend.apply(view, heads, ramp, *arrays)
    return read, Reading(*counts, weights=None)


class _Attend(torch.autograd.Function):
    """The gradient is that of rows, of what is stored, of the spans, and of what tells ages apart."""

    @staticmethod
    def forward(
        ctx: Any,
        view: MemoryView,
        heads: int,
        ramp: float,
        rows: Tensor,
        stored: Tensor,
        span: Tensor,
        position: Tensor | None,
        age_bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        arrays = (rows, stored, span, position, age_bias)
        batch, steps, width = rows.shape[0], rows.shape[1], rows.shape[2] // 3
        read = rows.new_empty(batch, steps, width + heads)
        peak, inverse_sum = rows.new_empty(2, batch, heads, steps).unbind()
        seen, on_ramp = rows.new_zeros(2, *span.shape).unbind()
        used, late = torch.zeros_like(view.live), torch.zeros_like(view.written)
        live, pushed_out = torch.zeros_like(view.since), torch.full_like(view.since, NEVER)
        counts = (seen, on_ramp, used, late, live, pushed_out)
        _call("read", rows.dtype, _segment(view, heads, ramp, *arrays), read, peak, inverse_sum, *counts)
        ctx.save_for_backward(read, peak, inverse_sum, rows, span, position, age_bias)
        # Not saved as the others: a later step may write into a free slot of it, which nobody here sees.
        ctx.given = view, heads, ramp, stored.detach()
        ctx.mark_non_differentiable(*counts)
        ctx.set_materialize_grads(False)
        return read, *counts

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's takes any number of gradients
        ctx: Any, grad_read: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if grad_read is None:  # nobody asked for what was read
            return (None,) * 8
        read, peak, inverse_sum, rows, span, position, age_bias = ctx.saved_tensors
        view, heads, ramp, stored = ctx.given
        arrays, grad_read = (rows, stored, span, position, age_bias), grad_read.contiguous()
        _address("grad_read", grad_read, rows.dtype, (*rows.shape[:2], rows.shape[2] // 3 + heads))
        grads = [None if array is None else torch.zeros_like(array) for array in arrays]
        segment = _segment(view, heads, ramp, *arrays)
        _call("read_backward", rows.dtype, segment, peak, inverse_sum, read, grad_read, *grads)
        return None, None, None, *grads


def _segment(
    view: MemoryView,
    heads: int,
    ramp: float,
    rows: Tensor,
    stored: Tensor,
    span: Tensor,
    position: Tensor | None,
    age_bias: Tensor | None,
) -> Any:
    """`Segment` of kernels.c.  Raises ValueError where an array is not what the library takes it for."""
    (batch, steps), slots, kind = rows.shape[:2], stored.shape[1], rows.dtype
    every, width = slots + steps, rows.shape[2] // 3
    window = 0 if position is None else position.shape[2]
    parts = (
        ("rows", rows, kind, (batch, steps, 3 * width)),
        ("stored", stored, kind, (batch, slots, 2 * width)),
        ("span", span, kind, (batch, every)),
        ("predicted span", view.span, kind, (batch, every)),
        ("written", view.written, torch.int64, (batch, every)),
        ("live", view.live, torch.bool, (batch, every)),
        ("since", view.since, torch.int64, (batch, steps)),
        ("gone", view.gone, torch.bool, (batch, steps + 1, every)),
        ("position", position, kind, (heads, width // heads, window)),
        ("age_bias", age_bias, kind, (heads, window + 1)),
    )
    addresses = (None if part[1] is None else _address(part[0], part[1], part[2], part[3]) for part in parts)
    return ctypes.byref(_Segment(batch, steps, slots, heads, width // heads, window, ramp, *addresses))


class Step(NamedTuple):
    """What a layer does at one step."""

    y: Float[Tensor, "B D"]
    memory: LayerMemory
    """What stays."""
    span: Float[Tensor, " B"]
    """Of the new memories."""
    live: Int[Tensor, "B 1"]
    """How many memories each row saw."""
    evicted: Int[Tensor, "B 1"]
    """When the memory was written that the capacity pushed out; -1 for none."""
    shares: Float[Tensor, "B 1 S"] | None
    """Each memory's share in what was read; only where it was asked for."""


def step(
    shape: Shape,
    weights: Sequence[Tensor | None],
    x: Float[Tensor, "B D"],
    memory: LayerMemory,
    time: Int[Tensor, "B 1"],
    reset: Bool[Tensor, "B 1"],
) -> Step:
    """A layer's step, whose memory is written into the free slot that there must be."""
    buffer, (batch, slots) = memory.buffer, memory.live.shape
    assert buffer is not None and buffer.taken < slots
    y, span, stays = x.new_empty(x.shape), x.new_empty(batch), memory.live.new_empty(memory.live.shape)
    live, evicted = time.new_empty(2, batch, 1).unbind()
    width, kind = shape.width, x.dtype
    x, time, reset, lives = (part.contiguous() for part in (x, time, reset, memory.live))
    layer = _layer(shape, weights, kind)
    given = (
        _address("x", x, kind, (batch, width)),
        _address("time", time, torch.int64, (batch, 1)),
        _address("reset", reset, torch.bool, (batch, 1)),
        _address("live", lives, torch.bool, (batch, slots)),
        _address("hidden", memory.hidden, kind, (batch, slots, width)),
        _address("key_value", memory.key_value, kind, (batch, slots, 2 * width)),
        _address("span", memory.span, kind, (batch, slots)),
        _address("birth", memory.birth, torch.int64, (batch, slots)),
    )
    buffer.taken += 1
    _call("act", kind, layer, batch, slots, buffer.taken, *given, y, stays, span, live, evicted)
    return Step(y, replace(memory, live=stays, taken=buffer.taken), span, live, evicted, None)
