"""Checkpoints that execute nothing when read: one safetensors file, with a JSON document in its header.

A checkpoint is written beside its place and then moved there, so the last one is whole at any moment.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

SUFFIX = ".safetensors"
FORMAT = "expirespan-checkpoint-1"


def write_checkpoint(path: Path, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write both to one file, replacing it as a whole or not at all.

    Raises TypeError where the document holds something that JSON does not know.
    """
    metadata = {"format": FORMAT, "document": json.dumps(document)}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # save_file would let nobody but the owner read it.
    _replace(path, lambda unfinished: unfinished.write_bytes(save(content, metadata)))


def replace_by_copy(source: Path, path: Path) -> None:
    """Copy a checkpoint, replacing the one at `path` as a whole or not at all."""
    _replace(path, lambda unfinished: copyfile(source, unfinished))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the document.

    Raises FileNotFoundError, or ValueError where the file is truncated or not such a checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is a safetensors file, but not a checkpoint of the format {FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["document"])
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error


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
    """Continue from what `optimizer_tensors` returned; the settings stay those of `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """A space as JSON.  Raises TypeError for one that Stable-Baselines3 has no policies for."""
    if isinstance(space, spaces.Box):
        uniform = {"low": space.low, "high": space.high}
        bounds = {k: v.flat[0].item() if v.size and (v == v.flat[0]).all() else v.tolist() for k, v in uniform.items()}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: describe_space(part) for name, part in space.spaces.items()}}
    raise TypeError(f"Expect a Box, Discrete, MultiDiscrete, MultiBinary or Dict space, actual: {space}")


def build_space(description: dict[str, Any]) -> spaces.Space:
    """The space that `describe_space` described."""
    settings = dict(description)
    kind = settings.pop("type")
    if kind == "Box":
        shape, dtype = tuple(settings["shape"]), np.dtype(settings["dtype"])
        low, high = (np.broadcast_to(np.asarray(settings[end], dtype=dtype), shape) for end in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Dict":
        return spaces.Dict({name: build_space(part) for name, part in settings["spaces"].items()})
    kinds = {"Discrete": spaces.Discrete, "MultiDiscrete": spaces.MultiDiscrete, "MultiBinary": spaces.MultiBinary}
    return kinds[kind](**settings)
