"""A sequence model and where its training stands, as one file that executes nothing when read.

A safetensors file with a JSON document and a digest in its header, as an agent's checkpoint is.

Of a training in several processes (`processes`) it holds the memories and the generator's state of each: those of
process 0 under the names that they have where it is alone, those of process n as "memory n", "evaluated memory n" and
"random n".  As many processes go on to the bit.  Another number takes its rows of all memories, with the same results
but for rounding; of generators each then has the one of its number, or keeps its own where none is stored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from safetensors.torch import load, save
from torch.nn.utils.rnn import pad_sequence

from .. import processes
from ..agents.checkpoint.file import (
    DIGEST,
    digest,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    replace_file,
    under,
)
from ..agents.checkpoint.migration import add_clocks
from ..agents.checkpoint.schema import Count, Number, converted, reading
from ..memory import MemoryCore
from .streams import Stream
from .training import Evaluator, SequenceTrainer

FORMATS = ("expirespan-sequence-1", "expirespan-sequence-2")
"""From the oldest to the present one, in which every core's state has a clock."""


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """The document: where training stands."""

    updates: Count
    sums: dict[str, Annotated[list[Number], Meta(min_length=2, max_length=2)]]
    """Figures that have not been logged yet (`SequenceTrainer.sums`)."""
    controller: dict[str, Any] | None


def write(path: Path, trainer: SequenceTrainer, evaluator: Evaluator) -> None:
    """Write a checkpoint, replacing the one at `path` as a whole or not at all.

    All processes call it, process 0 writes, and the others return when that is done.  Raises OSError, in all of them,
    where it can't be written.
    """
    groups = {"memory": trainer.state.tensors(), "evaluated memory": evaluator.state.tensors()}
    own = copied({of_process(name, processes.rank()): group for name, group in groups.items()})
    parts = processes.gathered(own | {of_process("random", processes.rank()): torch.get_rng_state()})
    failed = None
    if processes.rank() == 0:
        try:
            replace_file(path, lambda unfinished: unfinished.write_bytes(content(trainer, evaluator, parts)))
        except OSError as error:
            failed = error
    if failed := processes.of_first(failed):
        raise failed


def content(trainer: SequenceTrainer, evaluator: Evaluator, parts: list[dict[str, torch.Tensor]]) -> bytes:
    """Of a checkpoint: what all processes have in common, and the tensors that each has of its own."""
    groups = {
        "model": trainer.model.state_dict(),
        "optimizer": optimizer_tensors(trainer.optimizer),
        "stream": arrays(trainer.stream),
        "evaluated stream": arrays(evaluator.stream),
    }
    tensors = copied(groups)
    for part in parts:
        tensors |= part
    document = Progress(
        updates=trainer.updates,
        sums=dict(trainer.sums),
        controller=None if trainer.controller is None else trainer.controller.state_dict(),
    )
    text = json.dumps(msgspec.to_builtins(document))
    return save(tensors, {"format": FORMATS[-1], "document": text, DIGEST: digest(tensors, text)})


def copied(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU by the names of their group and their own; copies, as safetensors refuses shared memory."""
    tensors: dict[str, torch.Tensor] = {}
    for name, group in groups.items():
        tensors |= prefixed(name, {key: tensor.detach().cpu().contiguous().clone() for key, tensor in group.items()})
    return tensors


def of_process(name: str, number: int) -> str:
    """What something is called of a process; of process 0 as where it is alone."""
    return f"{name} {number}" if number else name


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
        if metadata.get("format") not in FORMATS:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMATS[-1]!r}")
        if metadata.get(DIGEST) != digest(tensors, metadata["document"]):
            raise ValueError("its contents are not those that were written")
        if metadata["format"] != FORMATS[-1]:
            add_clocks(tensors)
        return tensors, converted(json.loads(metadata["document"]), Progress)


def restore(path: Path, trainer: SequenceTrainer, evaluator: Evaluator) -> None:
    """Put a trainer, its evaluator and torch's generator where they were; all processes read the file.

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
            part.state = own_state(trainer.model.core, f"{name}memory", tensors, part.stream.batch_size)
            stream = under(f"{name}stream", tensors)
            part.stream.load_state_dict({key: tensor.numpy() for key, tensor in stream.items()})
        if (random := of_process("random", processes.rank())) in tensors:
            torch.set_rng_state(tensors[random])


def own_state(core: MemoryCore[Any], group: str, tensors: dict[str, torch.Tensor], rows: int) -> Any:
    """The memories of this process's rows.  Raises ValueError where there are not so many for each process."""
    count, rank = processes.count(), processes.rank()
    stored = sum(name.startswith("random") for name in tensors)
    parts = [under(of_process(group, number), tensors) for number in range(stored)]
    same = stored == count
    state = core.restore_state(parts[rank] if same else joined(parts))
    if len(state) != (expected := rows if same else rows * count):
        raise ValueError(f"Expect memories of {expected} rows, actual: {len(state)}")
    if same:
        return state  # as it was, slot by slot: another order of slots would be another order of sums
    device = next(iter(state.tensors().values())).device
    return state.rows(torch.arange(rank * rows, (rank + 1) * rows, device=device)).compact()


def joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The rows of states one after another; where one has fewer slots, those added are zeros, so not live."""
    whole = {}
    for name, first in parts[0].items():
        tensors = [part[name] for part in parts]
        rows = [row for tensor in tensors for row in tensor.unbind()]
        whole[name] = torch.cat(tensors) if first.dim() == 1 else pad_sequence(rows, batch_first=True)
    return whole


def restore_weights(path: Path, model: torch.nn.Module) -> tuple[int, dict[str, np.ndarray]]:
    """Give a model its weights alone; the updates that they have had, and the state of the stream that these were of.

    Raises as `restore` does.
    """
    tensors, document = read(path)
    with reading(f"{path} is a checkpoint of another model"):
        model.load_state_dict(under("model", tensors))
    return document.updates, {name: tensor.numpy() for name, tensor in under("stream", tensors).items()}
