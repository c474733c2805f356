"""A sequence model and where its training stands, as one file that executes nothing when read.

A safetensors file with a JSON document and a digest in its header, as an agent's checkpoint is.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from safetensors.torch import load, save

from ..agents.checkpoint.file import (
    DIGEST,
    digest,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    replace_file,
    under,
)
from ..agents.checkpoint.schema import Count, Number, converted, reading
from .streams import Stream
from .training import Evaluator, SequenceTrainer

FORMAT = "expirespan-sequence-1"
GROUPS = ("model", "optimizer", "memory", "stream", "evaluated memory", "evaluated stream")


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """The document: where training stands."""

    updates: Count
    sums: dict[str, Annotated[list[Number], Meta(min_length=2, max_length=2)]]
    """Figures that have not been logged yet (`SequenceTrainer.sums`)."""
    controller: dict[str, Any] | None


def write(path: Path, trainer: SequenceTrainer, evaluator: Evaluator) -> None:
    """Write a checkpoint, replacing the one at `path` as a whole or not at all."""
    groups = (
        trainer.model.state_dict(),
        optimizer_tensors(trainer.optimizer),
        trainer.state.tensors(),
        arrays(trainer.stream),
        evaluator.state.tensors(),
        arrays(evaluator.stream),
    )
    tensors = {"random": torch.get_rng_state()}
    for name, group in zip(GROUPS, groups, strict=True):
        tensors |= prefixed(name, {key: tensor.detach().cpu().contiguous().clone() for key, tensor in group.items()})
    document = Progress(
        updates=trainer.updates,
        sums=dict(trainer.sums),
        controller=None if trainer.controller is None else trainer.controller.state_dict(),
    )
    text = json.dumps(msgspec.to_builtins(document))
    data = save(tensors, {"format": FORMAT, "document": text, DIGEST: digest(tensors, text)})
    replace_file(path, lambda unfinished: unfinished.write_bytes(data))


def arrays(stream: Stream) -> dict[str, torch.Tensor]:
    """Where a stream stands."""
    return {name: torch.from_numpy(np.array(array)) for name, array in stream.state_dict().items()}


def read(path: Path) -> tuple[dict[str, torch.Tensor], Progress]:
    """The tensors and the document of a checkpoint.

    Raises FileNotFoundError, or ValueError where the file is damaged or none of a sequence model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}")
    data = path.read_bytes()
    with reading(f"{path} is not a readable checkpoint"):
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__") or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        if metadata.get(DIGEST) != digest(tensors, metadata["document"]):
            raise ValueError("its contents are not those that were written")
        return tensors, converted(json.loads(metadata["document"]), Progress)


def restore(path: Path, trainer: SequenceTrainer, evaluator: Evaluator) -> None:
    """Put a trainer, its evaluator and torch's generator where they were.

    Raises as `read` does, and ValueError where the checkpoint is of another model or other streams.
    """
    tensors, document = read(path)
    with reading(f"{path} is a checkpoint of another model, or of other data"):
        trainer.model.load_state_dict(under("model", tensors))
        load_optimizer_tensors(trainer.optimizer, under("optimizer", tensors))
        trainer.updates = document.updates
        trainer.sums.update(document.sums)
        if trainer.controller is not None:
            trainer.controller.load_state_dict(document.controller or {})
        for name, part in (("", trainer), ("evaluated ", evaluator)):
            state = trainer.model.core.restore_state(under(f"{name}memory", tensors))
            if len(state) != part.stream.batch_size:
                raise ValueError(f"Expect memories of {part.stream.batch_size} rows, actual: {len(state)}")
            part.state = state
            stored = under(f"{name}stream", tensors)
            part.stream.load_state_dict({key: tensor.numpy() for key, tensor in stored.items()})
        torch.set_rng_state(tensors["random"])


def restore_weights(path: Path, model: torch.nn.Module) -> int:
    """Give a model its weights alone; the updates that they have had.  Raises as `restore` does."""
    tensors, document = read(path)
    with reading(f"{path} is a checkpoint of another model"):
        model.load_state_dict(under("model", tensors))
    return document.updates
