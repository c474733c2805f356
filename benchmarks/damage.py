"""Damaged and made-up files: one thing changed in a checkpoint, a config.json or a recorded episode.

What else depends on it (lengths, the checkpoint's digest) is made right again, as somebody would who wants it read.
"""

import copy
import io
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from expirespan.agents.checkpoint.file import DIGEST, digest
from safetensors.torch import load, save

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1000, 10**6, 10**9, 10**12, 2**63, 2**70, -(2**70), 10**400),
    *(0.0, 0.5, -0.5, 1e-9, 1e9, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "none", "lstm", "cuda", "cpu", "../..", "é" * 100, "x" * 100_000),
    *([], [0], [1, 2, 3], [None] * 4, [[1]], [0] * 10_000, {}, {"x": 1}, {"type": "Box"}, {"class": "os:system"}),
)


@dataclass(frozen=True)
class Case:
    """A changed file: what was changed, its contents, and what must be true of what was read."""

    kind: str
    change: str
    data: bytes
    path: tuple[Any, ...] = ()
    """Of the entry of the document that was changed."""
    tensor: str = ""
    """Name of the tensor or array that was changed."""
    was: Any = None
    """What stood at the path before."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


MISSING = "nothing"


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a path; `MISSING` where there is nothing."""
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return MISSING
    return value


def changed_document(original: Any, draw: random.Random) -> tuple[Any, str, tuple[Any, ...], Any]:
    """A document with one entry replaced, removed or added: how, where, and what stood there before."""
    document = copy.deepcopy(original)
    *parents, key = path = draw.choice(list(places(document)))
    parent = at(document, tuple(parents))
    how = draw.choice(("replace",) * 6 + ("remove", "add", "nest", "scale"))
    if how == "remove":
        del parent[key]
    elif how == "add":
        added = draw.choice(VALUES)
        if isinstance(parent, dict):
            parent["added"], path = added, (*parents, "added")
        else:
            parent.append(added)
            path = (*parents, len(parent) - 1)
    elif how == "nest":
        for _ in range(draw.choice((1, 100, 500))):
            parent[key] = [parent[key]]
    elif how == "scale" and isinstance(parent[key], int | float):
        parent[key] = parent[key] * draw.choice((2, -1, 1000, 10**9)) if parent[key] is not True else 5
    else:
        parent[key] = draw.choice(VALUES)
    change = f"{how} {'.'.join(map(str, path))} to {str(at(document, path))[:60]}"
    return document, change, path, at(original, path)


def changed_bytes(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Bytes flipped, cut, zeroed, repeated or added."""
    how = draw.choice(("flip", "flip", "flip", "cut", "zero", "add", "repeat", "empty"))
    place = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 4096))
    size = draw.choice((1, 8, 100, 5000))
    if how == "flip":
        return data[:place] + bytes((data[place] ^ (1 << draw.randrange(8)),)) + data[place + 1 :], f"flip at {place}"
    if how == "cut":
        return data[:place], f"cut at {place}"
    if how == "zero":
        return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :], f"{size} zeros at {place}"
    if how == "repeat":
        return data[:place] + data[max(place - size, 0) :], f"{size} repeated at {place}"
    return (b"", "empty") if how == "empty" else (data + draw.randbytes(size), f"{size} added")


def changed_array(array: np.ndarray, draw: random.Random) -> tuple[np.ndarray, str]:
    """An array of another type, shape or value."""
    how = draw.choice(("type", "shape", "value", "value", "value", "value", "short", "long", "empty", "noise"))
    if how == "type":
        to = draw.choice(("float32", "float64", "int32", "int64", "bool", "uint8", "int8", "float16"))
        with np.errstate(all="ignore"):
            return (array if array.dtype.kind != "U" else np.zeros(array.shape)).astype(to), f"as {to}"
    if how == "shape":
        return draw.choice((array[None], array.reshape(-1), array.reshape(1, -1))), "reshaped"
    if how == "noise" and array.dtype.kind != "U":
        return np.frombuffer(bytearray(draw.randbytes(array.nbytes)), array.dtype).reshape(array.shape), "noise"
    if how in ("short", "long", "empty") and array.ndim:
        part = {"short": array[:-1], "long": np.concatenate([array, array]), "empty": array[:0]}[how]
        return part, how
    array = array.copy()
    if array.size and array.dtype.kind in "fiub":
        limits = {
            "f": (np.nan, np.inf, 1e30, -1e30, 0.0, 0.5),
            "b": (True, False),
            "i": (-1, 0, 1, 5, 1000, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1),
            "u": (0, 1, 5, 255),
        }[array.dtype.kind]
        value = draw.choice(limits)
        place = draw.choice((slice(None), draw.randrange(array.size)))
        array.reshape(-1)[place] = value
        return array, f"{value} at {place if isinstance(place, int) else 'all'}"
    return array, "nothing"


def checkpoint_case(data: bytes, kind: str, draw: random.Random) -> Case:
    """A changed checkpoint."""
    how = draw.choice(("bytes", "document", "document", "tensor", "tensor", "names"))
    if how == "bytes":
        changed, change = changed_bytes(data, draw)
        return Case(kind, change, changed)
    tensors = dict(sorted(load(data).items()))  # whose order is another in every process
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    document, path, was, name = json.loads(header["document"]), (), None, ""
    if how == "document":
        document, change, path, was = changed_document(document, draw)
    elif how == "tensor":
        # As often as of the network, of what is not: there is less of it.
        some = [n for n in tensors if draw.random() < 0.5 or not n.startswith(("policy", "optimizer"))]
        group = draw.choice(("policy", "optimizer", "memory", "env", "last", "random"))
        name = draw.choice([n for n in some if n.startswith(group)] or list(tensors))
        array, change = changed_array(tensors[name].numpy(), draw)
        tensors[name], change = torch.from_numpy(np.array(array, order="C")), f"{name} {change}"
    else:
        name = draw.choice(list(tensors))
        if draw.random() < 0.5:
            del tensors[name]
            change = f"{name} removed"
        else:
            new = draw.choice((f"{name}x", "policy/x", "optimizer/9999.step", "optimizer/x.step", "memory/x", "env/x"))
            tensors[new] = tensors[name].clone()
            change, name = f"{new} added", new
    text = json.dumps(document)
    data = save(tensors, header | {"document": text, DIGEST: digest(tensors, text)})
    return Case(kind, change, data, path, name, was)


def configuration_case(data: bytes, draw: random.Random) -> Case:
    """A changed config.json."""
    if draw.random() < 0.2:
        changed, change = changed_bytes(data, draw)
        return Case("config.json", change, changed)
    document, change, path, was = changed_document(json.loads(data), draw)
    return Case("config.json", change, json.dumps(document).encode(), path, was=was)


def episode_case(data: bytes, draw: random.Random) -> Case:
    """A changed recorded episode."""
    if draw.random() < 0.3:
        changed, change = changed_bytes(data, draw)
        return Case("episode", change, changed)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = draw.choice(list(arrays))
    how = draw.random()
    if how < 0.1:
        del arrays[name]
        change = "removed"
    elif how < 0.2:
        arrays["added"], name, change = arrays[name], "added", "added"
    elif how < 0.3:
        arrays[name], change = np.zeros(draw.choice((10**8, 5 * 10**8)), np.uint8), "a bomb"
    else:
        arrays[name], change = changed_array(arrays[name], draw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return Case("episode", f"{name} {change}", file.getvalue(), tensor=name)
