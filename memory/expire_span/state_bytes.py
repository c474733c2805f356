"""A state as bytes and back: a safetensors file in memory, which executes nothing when read.

The entries are `time` int64 [B] and for each layer n from 0 `n.hidden` [B, S, D], `n.key_value` [B, S, 2 D], `n.span`
[B, S], all of one floating-point type, `n.birth` int64 [B, S] and `n.live` bool [B, S]; S is each layer's own.  Keys,
values and spans would follow from `hidden`, each layer's inputs, and the weights, but not to the last bit, and not
without the model.  (States of format 1 held the inputs after the norm; they are refused.)

Bytes from outside are checked entry by entry, so that what is read is a state that a step could have returned.
"""

import json
import re
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = "expirespan-state-2"
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PARTS = ("hidden", "key_value", "span", "birth", "live")
"""Of each layer."""
LATEST = 2**53
"""Times stay below this: larger ones are not exact in float64, in which memories are compared."""


def write_state(tensors: dict[str, Tensor]) -> bytes:
    """The bytes of these entries."""
    # Copies, since safetensors refuses tensors that share memory.
    return save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, {"format": FORMAT}
    )


def read_state(data: bytes) -> dict[str, Tensor]:
    """The entries, on the CPU.  Raises ValueError that names the first entry that is not as described above."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"Expect `data` to be the bytes of a state, actual: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = header.get("__metadata__", {}).get("format")
    if found != FORMAT:
        raise ValueError(f"Expect `data` to be a state of the format {FORMAT}, actual: {found}")
    layers = sum(re.fullmatch(r"\d+\.hidden", name) is not None for name in tensors)
    names = [f"{n}.{name}" for n in range(layers) for name in PARTS]
    if not layers or set(tensors) != {"time", *names}:
        raise ValueError(f"Expect the entries {', '.join(['time', *names])}, actual: {', '.join(sorted(tensors))}")
    _check_time(tensors["time"])
    for number in range(layers):
        _check_stored(number, tensors)
        _check_projected(number, tensors)
    return tensors


STORED = ("hidden", "birth", "live")
"""Of each layer, what keys, values and spans follow from."""


def check_stored(tensors: dict[str, Tensor], layers: int, width: int) -> None:
    """Raise ValueError where these are not the time and the `STORED` parts of a state of so many layers, so wide."""
    names = ["time", *(f"{n}.{name}" for n in range(layers) for name in STORED)]
    if set(tensors) != set(names):
        raise ValueError(f"Expect the entries {', '.join(names)}, actual: {', '.join(sorted(tensors))}")
    _check_time(tensors["time"])
    for number in range(layers):
        _check_stored(number, tensors)
    hidden = tensors["0.hidden"]
    _check("0.hidden", f"be {width} wide", hidden, hidden.shape[2] == width)


def _check_time(time: Tensor) -> None:
    _check("time", "be int64 [B] with B > 0", time, time.dtype == torch.int64 and time.dim() == 1 and len(time) > 0)
    _check_range("time", "be from 0 to 2^53", time, (time >= 0) & (time < LATEST))


def _check_stored(number: int, tensors: dict[str, Tensor]) -> None:
    hidden, birth, live = (tensors[f"{number}.{name}"] for name in STORED)
    time, kind = tensors["time"], tensors["0.hidden"].dtype
    right = hidden.dtype == kind and kind in FLOATS and hidden.dim() == 3 and len(hidden) == len(time)
    width = tensors["0.hidden"].shape[-1] if tensors["0.hidden"].dim() == 3 else 0
    right = right and 0 < width == hidden.shape[2]
    rule = f"be floating-point [{len(time)}, S, D], of one type and D > 0 in all layers"
    _check(f"{number}.hidden", rule, hidden, right)
    _check_kind(f"{number}.birth", birth, hidden.shape[:2], torch.int64)
    _check_kind(f"{number}.live", live, hidden.shape[:2], torch.bool)
    bits = live.view(torch.uint8)  # a bool of another value than 0 and 1 is neither true nor false
    _check_range(f"{number}.live", "be 0 or 1", bits, bits <= 1)
    _check_range(f"{number}.hidden", "be finite", hidden, hidden.isfinite())
    past = (birth >= 0) & ((birth < time.unsqueeze(1)) | ~live)
    _check_range(f"{number}.birth", "be at least 0 and before `time`", birth, past)


def _check_projected(number: int, tensors: dict[str, Tensor]) -> None:
    hidden, key_value, span = (tensors[f"{number}.{name}"] for name in ("hidden", "key_value", "span"))
    rows, slots, width = hidden.shape
    _check_kind(f"{number}.key_value", key_value, (rows, slots, 2 * width), hidden.dtype)
    _check_kind(f"{number}.span", span, (rows, slots), hidden.dtype)
    _check_range(f"{number}.key_value", "be finite", key_value, key_value.isfinite())
    _check_range(f"{number}.span", "be finite and at least 0", span, span.isfinite() & (span >= 0))


def _check_kind(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    rule = f"be {str(dtype).removeprefix('torch.')} {list(shape)}"
    _check(name, rule, tensor, tensor.dtype == dtype and tensor.shape == torch.Size(shape))


def _check(name: str, rule: str, tensor: Tensor, holds: bool) -> None:
    if not holds:
        actual = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        raise ValueError(f"Expect the entry `{name}` to {rule}, actual: {actual}")


def _check_range(name: str, rule: str, tensor: Tensor, holds: Tensor) -> None:
    if not holds.all():
        raise ValueError(f"Expect the entry `{name}` to {rule}, actual: {tensor[~holds][0].item()}")
