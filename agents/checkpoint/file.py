"""Checkpoints that execute nothing when read: one safetensors file, with a JSON document in its header.

Under a name that ends in .zip, which SB3's tools write and look for, the same file lies in a ZIP archive, uncompressed.
A checkpoint is written beside its place and then moved there, so the last one is whole at any moment.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors.torch import load, save
from torch import Tensor

from .migration import FORMATS, migrate
from .schema import check_document, reading

SUFFIX, ARCHIVE = ".safetensors", ".zip"
ENTRY = "checkpoint.safetensors"
"""The checkpoint in a ZIP archive, and in a run folder."""
COMPLETE = "complete"
"""The entry that reading adds to the document: whether it is of the present format, so that nothing may lack."""
DIGEST = "sha256"
"""The entry of the header that holds `digest`."""

Target = str | os.PathLike[str] | io.BufferedIOBase


def write_checkpoint(target: Target, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write both to one file, replacing it as a whole or not at all, or to a binary stream.

    A stream and a path without a suffix (which gets .zip, as in SB3) take a ZIP archive, as every suffix does but
    .safetensors.

    Raises TypeError where the document holds something that JSON does not know, ValueError where it could not be read
    again.
    """
    # Copies, since safetensors refuses tensors that share memory.
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({name: value for name, value in document.items() if name != COMPLETE})
    check_document(json.loads(text), complete=True)  # before what can't be read replaces what can
    content = save(stored, {"format": FORMATS[-1], "document": text, DIGEST: digest(stored, text)})
    if not isinstance(target, str | os.PathLike):
        target.write(_archived(content))
        return
    path = Path(target)
    path = path if path.suffix else path.with_name(path.name + ARCHIVE)
    path.parent.mkdir(parents=True, exist_ok=True)
    # save_file would let nobody but the owner read it.
    data = content if path.suffix == SUFFIX else _archived(content)
    replace_file(path, lambda unfinished: unfinished.write_bytes(data))


def _archived(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(ENTRY, content)
    return file.getvalue()


def replace_by_copy(source: Path, path: Path) -> None:
    """Copy a checkpoint, replacing the one at `path` as a whole or not at all."""
    replace_file(path, lambda unfinished: copyfile(source, unfinished))


def unfinished(folder: Path) -> set[Path]:
    """What a killed process left beside the files that it was to replace."""
    return set(folder.glob(".*.unfinished"))


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left."""
    for path in unfinished(folder):
        path.unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside its place, and then move it there: the old one or the new one, never a part.

    Raises OSError that names the file where it can't be written: the disk is full, the folder gone or read-only.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        said = f"{path} could not be written, and is what it was before: {error.strerror or error}"
        raise OSError(error.errno, said) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The file that `path` names: itself, with .zip or .safetensors added or exchanged, or that of a run folder.

    Raises FileNotFoundError where there is none, ValueError for a folder without a checkpoint.
    """
    path = Path(path)
    if (path / ENTRY).is_file():
        return path / ENTRY
    stem = path.with_suffix("") if path.suffix in (ARCHIVE, SUFFIX) else path
    for candidate in (path, stem.with_name(stem.name + ARCHIVE), stem.with_name(stem.name + SUFFIX)):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ValueError(f"Expect a checkpoint, or a run folder with {ENTRY}, actual: the folder {path}")
    raise FileNotFoundError(f"There is no checkpoint at {path}")


def read_checkpoint(source: Target) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the document, of a file (`find_checkpoint`) or a binary stream.

    Raises FileNotFoundError, or ValueError where the file is truncated or not such a checkpoint.
    """
    if isinstance(source, str | os.PathLike):
        path = find_checkpoint(source)
        name, data = str(path), path.read_bytes()
    else:
        name, data = str(getattr(source, "name", "the stream")), source.read()
    if zipfile.is_zipfile(io.BytesIO(data)):
        data = _unpacked(data, name)
    with reading(f"{name} is not a readable checkpoint"):
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    stored_as = metadata.get("format")
    if stored_as not in FORMATS:
        raise ValueError(f"{name} is a safetensors file, but not a checkpoint of the format {FORMATS[-1]}")
    with reading(f"{name} is not a readable checkpoint"):
        # Files from before it was stored have none.
        if metadata.get(DIGEST) not in (None, digest(tensors, metadata["document"])):
            raise ValueError("its contents are not those that were written")
        document = json.loads(metadata["document"])
        migrate(tensors, document, stored_as)
        complete = stored_as == FORMATS[-1]
        check_document(document, complete)
        check_tensors(tensors, len(document["others"]))
    return tensors, document | {COMPLETE: complete}


def digest(tensors: dict[str, Tensor], document: str) -> str:
    """What tells whether a file still holds what was written: SHA-256 over the document and every tensor."""
    found = hashlib.sha256(document.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        # A tensor of one number may have any stride, which `view` won't have.
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


SHARED = ("policy/", "optimizer/")
OWN, SINGLE = ("memory/", "env/", "last_obs/"), ("last_episode_starts", "random/torch", "random/cuda")
"""What each process has of its own: groups of tensors, and single ones."""


def check_tensors(tensors: dict[str, Tensor], others: int) -> None:
    """Raise ValueError that names a tensor of no group, with NaN or infinite numbers, or with broken bools.

    The tensors of so many other processes than the first stand under process1/ and so on.
    """
    prefixes = tuple(f"process{number}/" for number in range(1, others + 1))
    for name, tensor in tensors.items():
        own = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
        if not (name.startswith(SHARED) or own.startswith(OWN) or own in SINGLE):
            raise ValueError(f"Expect tensors of {', '.join((*SHARED, *OWN, *SINGLE))}, actual: {name}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"Expect `{name}` to be finite, actual: {tensor[~tensor.isfinite()][0].item()}")
        # A bool of another byte is neither true nor false.
        if tensor.dtype == torch.bool and (tensor.view(torch.uint8) > 1).any():
            raise ValueError(f"Expect `{name}` to be bools of 0 and 1, actual: {tensor.view(torch.uint8).max()}")


def _unpacked(data: bytes, name: str) -> bytes:
    """The checkpoint inside an archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if ENTRY in names and archive.getinfo(ENTRY).file_size <= len(data):
                return archive.read(ENTRY)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{name} is not a readable checkpoint: {error}") from error
    if "policy.pth" in names:
        raise ValueError(
            f"{name} is a model of one of Stable-Baselines3's own algorithms; load it with that algorithm's class"
        )
    raise ValueError(f"{name} is a ZIP archive, but not a checkpoint of the format {FORMATS[-1]}")


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix/` before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer that keeps tensors for each parameter, as Adam and RMSProp do."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, slot in state.items() for key, value in slot.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Continue from what `optimizer_tensors` returned; the settings stay those of `optimizer`.

    Raises ValueError that names a tensor which is not that of a parameter.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        if tensor.dim() and tensor.shape != parameters[int(index)].shape:
            expected = list(parameters[int(index)].shape)
            raise ValueError(f"Expect `optimizer/{name}` to be {expected}, actual: {list(tensor.shape)}")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """A space as JSON, exactly: bounds, starts, number types and the order of a dictionary's keys.

    Raises TypeError for one that Stable-Baselines3 has no policies for.
    """
    if isinstance(space, spaces.Box):
        uniform = {"low": space.low, "high": space.high}
        bounds = {k: v.flat[0].item() if v.size and (v == v.flat[0]).all() else v.tolist() for k, v in uniform.items()}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        lists = {"nvec": space.nvec.tolist(), "start": np.asarray(space.start).tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **lists}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: describe_space(part) for name, part in space.spaces.items()}}
    raise TypeError(f"Expect a Box, Discrete, MultiDiscrete, MultiBinary or Dict space, actual: {space}")


def build_space(description: dict[str, Any]) -> spaces.Space:
    """The space that `describe_space` described."""
    settings = dict(description)
    kind = settings.pop("type")
    if kind == "Dict":
        # Pairs, since Gymnasium sorts the keys of a dictionary.
        return spaces.Dict([(name, build_space(part)) for name, part in settings["spaces"].items()])
    if kind == "MultiBinary":
        return spaces.MultiBinary(settings["n"])
    dtype: Any = np.dtype(settings.get("dtype", np.int64)).type  # older files have none for whole numbers
    if kind == "Box":
        shape = tuple(settings["shape"])
        low, high = (np.asarray(settings[end], dtype=dtype) for end in ("low", "high"))
        if not {low.shape, high.shape} <= {(), shape}:
            raise ValueError(f"Expect bounds of a Box of shape {shape}, actual: {low.shape} and {high.shape}")
        low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        return spaces.Box(low, high, dtype=dtype)
    if kind == "Discrete":
        typed = {} if dtype is np.int64 else {"dtype": dtype}  # an argument that older Gymnasiums don't have
        return spaces.Discrete(settings["n"], start=settings["start"], **typed)
    start = settings.get("start")
    nvec = np.array(settings["nvec"])
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=None if start is None else np.array(start))
