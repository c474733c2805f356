"""A layer in C for CPUs: over a segment, with its gradient, and at a step (kernels.c).

A trained agent sees some twenty of the hundreds of memories that a segment holds, and networks of this size spend most
of their time between operations, not in them.  So one call looks at the pairs that can see each other, and counts on
the way what the charges for memory need.  layer.py computes the same from torch's operations: where the library was not
built, on other devices, for other types of numbers, with dropout, and where attention weights are asked for.
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

from .attention import NEVER, MemoryView, Projected, Reading
from .slots import LayerMemory

VERSION = 6
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


FUNCTIONS = {"project": (1, 4), "attend": (0, 12), "attend_backward": (0, 12), "act": (3, 13)}
"""How many numbers and how many addresses each function takes after the address of a layer."""


WIDEST = 128
"""Width up to which a segment is computed here: PyTorch multiplies large matrices faster."""


def serves(x: Tensor, stored: Tensor) -> bool:
    """Whether what is made from `x` [B, T, D] or [B, D] and from what is stored can be computed here, and should be."""
    return (
        x.is_cpu
        and x.dtype in TYPES
        and stored.dtype is x.dtype
        and (x.dim() == 2 or x.shape[2] <= WIDEST)
        and library() is not None
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
            *((name, ctypes.c_int64) for name in ("B", "T", "S0")),
            ("longest", ctypes.c_double),
            *((name, ctypes.c_void_p) for name in ("x", "rows", "stored", "span", "written", "live", "since", "gone")),
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


def project(shape: Shape, weights: Sequence[Tensor | None], x: Float[Tensor, "B T D"]) -> Projected:
    """Query, key, value and span of every step."""
    x = x.detach().contiguous()
    batch, steps, width = x.shape
    _address("x", x, x.dtype, (batch, steps, shape.width))
    made = Projected(x.new_empty(x.shape), x.new_empty(batch, steps, 3 * width), x.new_empty(batch, steps))
    _call("project", x.dtype, _layer(shape, weights, x.dtype), batch * steps, x, *made)
    return made


def attend_segment(
    shape: Shape,
    weights: Sequence[Tensor | None],
    x: Float[Tensor, "B T D"],
    stored: Float[Tensor, "B stored two_D"],
    stored_span: Float[Tensor, "B stored"],
    projected: Projected,
    view: MemoryView,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T"], Reading]:
    """A layer's output, the spans of its new memories, both with gradient, and what was seen."""
    y, span, *counts = _Attend.apply(shape, projected, view, x.contiguous(), stored.contiguous(), stored_span, *weights)
    return y, span, Reading(*counts, weights=None)


class _Attend(torch.autograd.Function):
    """The gradient is that of the layer's input, of what is stored, and of the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        shape: Shape,
        projected: Projected,
        view: MemoryView,
        x: Tensor,
        stored: Tensor,
        stored_span: Tensor,
        *weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        batch, steps, _ = x.shape
        y, read = x.new_empty(x.shape), x.new_empty(batch, steps, shape.width + shape.heads)
        peak, inverse_sum = x.new_empty(2, batch, shape.heads, steps).unbind()
        # The gradient takes its parts as they come: blocks of at most 16 steps, of which the last may not be full.
        saved = x.new_empty(batch, steps + 15, 2 * shape.width + shape.ff_width)
        seen, on_ramp = x.new_zeros(2, *view.span.shape).unbind()
        used, late = torch.zeros_like(view.live), torch.zeros_like(view.written)
        live, pushed_out = torch.zeros_like(view.since), torch.full_like(view.since, NEVER)
        counts = (seen, on_ramp, used, late, live, pushed_out)
        segment = _described(shape, projected, view, x, stored)
        _call("attend", x.dtype, _layer(shape, weights, x.dtype), segment, y, read, saved, peak, inverse_sum, *counts)
        ctx.save_for_backward(x, stored, read, saved, peak, inverse_sum, *weights)
        ctx.given = shape, projected, view
        ctx.mark_non_differentiable(*counts)
        ctx.set_materialize_grads(False)
        return y, projected.span.clone(), *counts

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's takes any number of gradients
        ctx: Any, grad_y: Tensor | None, grad_span: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        x, stored, read, saved, peak, inverse_sum, *weights = ctx.saved_tensors
        shape, projected, view = ctx.given
        if saved.data_ptr() % 64:  # whole vectors are read from it, and hooks may have moved it
            saved = saved.clone()
        grad_x, grad_stored = torch.empty_like(x), torch.zeros_like(stored)
        grad_stored_span = x.new_zeros(stored.shape[:2])
        into = [None if weight is None else torch.zeros_like(weight) for weight in weights]
        segment = _described(shape, projected, view, x, stored)
        grads = [None if grad is None else grad.contiguous() for grad in (grad_y, grad_span)]
        for name, grad, given in (("grad_y", grads[0], x), ("grad_span", grads[1], projected.span)):
            if grad is not None:
                _address(name, grad, x.dtype, given.shape)
        made = (projected.inner, read, saved, peak, inverse_sum)
        back = (grad_x, grad_stored, grad_stored_span, _layer(shape, into, x.dtype))
        _call("attend_backward", x.dtype, _layer(shape, weights, x.dtype), segment, *made, *grads, *back)
        return None, None, None, grad_x, grad_stored, grad_stored_span, *into


def _described(shape: Shape, projected: Projected, view: MemoryView, x: Tensor, stored: Tensor) -> Any:
    longest = float("inf") if view.longest is None else view.longest
    (batch, steps), slots, width, kind = x.shape[:2], stored.shape[1], shape.width, x.dtype
    every = slots + steps
    parts = (
        ("x", x, kind, (batch, steps, width)),
        ("rows", projected.rows, kind, (batch, steps, 3 * width)),
        ("stored", stored, kind, (batch, slots, 2 * width)),
        ("span", view.span, kind, (batch, every)),
        ("written", view.written, torch.int64, (batch, every)),
        ("live", view.live, torch.bool, (batch, every)),
        ("since", view.since, torch.int64, (batch, steps)),
        ("gone", view.gone, torch.bool, (batch, steps + 1, every)),
    )
    addresses = (None if part[1] is None else _address(part[0], part[1], part[2], part[3]) for part in parts)
    return ctypes.byref(_Segment(batch, steps, slots, longest, *addresses))


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
