"""One training in several processes, by torch.distributed: what they have in common.

Each process has rows of its own (environments, or rows of a stream).  Gradients, statistics and decisions are of all
processes, so that N processes with B / N rows each are the same training as one with B.  Process 0 writes files.

Every process must call the functions marked "all" in the same order; in a training of one process they return what they
are given.  Without `torch.distributed.init_process_group` there is one process.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist

Value = TypeVar("Value")
SIGNAL_OF_PARENTS_DEATH = 1
"""PR_SET_PDEATHSIG of Linux."""
LAUNCHER = "EXPIRESPAN_LAUNCHER"
"""In the environment of processes that `--workers` starts: the number of the process that started them."""


class OthersEnded(RuntimeError):
    """Another process of the training has ended, so this one can't go on."""


@contextmanager
def _together() -> Iterator[None]:
    """Let errors of communication be `OthersEnded`."""
    try:
        yield
    except RuntimeError as error:
        raise OthersEnded(f"Expect all {count()} processes to go on, actual: one has ended ({error})") from error


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def launched() -> bool:
    """Whether torchrun (or `--workers`) started this process as one of several, or as the only one of its kind."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted() -> bool:
    """Whether torchrun started the processes again, after one of them had failed (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined_by_torchrun() -> Iterator[None]:
    """Connect this process with the others where torchrun started it: gloo for CPUs, NCCL for GPUs."""
    if not launched():
        yield
        return
    if sys.platform == "linux":  # where the launcher is killed, stop as it would have asked for
        ctypes.CDLL(None).prctl(SIGNAL_OF_PARENTS_DEATH, signal.SIGTERM)
        # Nobody tells of a death before that, and the meeting with the others would be waited for in vain.
        if (launcher := os.environ.get(LAUNCHER)) and os.getppid() != int(launcher):
            raise OthersEnded(f"Expect process {launcher}, which started this one, to go on, actual: it has ended")
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        gathered(None)  # who ends first has the launcher stop the others
    finally:
        dist.destroy_process_group()


def leave(code: int) -> None:
    """End this process with an exit code where torchrun started it; nothing happens elsewhere.

    Without the destructors that run at a usual exit: gloo's threads may end there with SIGABRT after all is done, which
    the launcher takes for a failure of the training.
    """
    if launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def own_device(device: str) -> str:
    """The device of this process where that of all is asked for: "cuda" is a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and launched() else device


def total(own: Tensor) -> Tensor:
    """All: the sum over the processes; `own` stays as it is."""
    if count() == 1:
        return own
    summed = own.detach().clone()
    with _together():
        dist.all_reduce(summed)
    return summed


def totals(own: Sequence[Tensor]) -> list[Tensor]:
    """All: the sums over the processes of tensors of one type, in one message."""
    if count() == 1 or not own:
        return list(own)
    parts = total(torch.cat([part.flatten() for part in own])).split([part.numel() for part in own])
    return [summed.view_as(part) for summed, part in zip(parts, own, strict=True)]


def mean(own: Tensor) -> Tensor:
    """All: the mean over the processes."""
    return own if count() == 1 else total(own) / count()


def all_of_them(own: bool) -> bool:
    """All: whether it is true in every process."""
    return own if count() == 1 else bool(total(torch.tensor(int(own))) == count())


def largest(own: int) -> int:
    """All: the largest of the processes' numbers."""
    return max(gathered(own))


class Stop:
    """A stop of the training that a signal to any of the processes asks for, and that all of them agree on."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that has asked this process."""
        self.signal: int | None = None
        """The one that all have agreed to stop for."""

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: ask for a stop.  The first one counts: a launcher sends others to those that still run."""
        self.asked = self.asked or number

    def agree(self) -> bool:
        """All: whether one of the processes has been asked to stop.

        A signal that arrives during or after this counts the next time, so that no process stops alone.
        """
        self.signal = largest(self.asked or 0) or None
        return self.signal is not None


def mean_figures(own: Mapping[str, float]) -> dict[str, float]:
    """All: means over the processes of numbers with the same names everywhere."""
    if count() == 1:
        return dict(own)
    return dict(zip(own, mean(torch.tensor([*own.values()], dtype=torch.float64)).tolist(), strict=True))


def moments(own: Float[Tensor, "N *shape"]) -> tuple[int, Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
    """All: how many values the processes have, their mean and their variance (divided by their number), in float64."""
    values, size = own.double(), len(own) * count()
    average = total(values.sum(0)) / size
    return size, average, total(((values - average) ** 2).sum(0)) / size


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """All: replace gradients by their means over the processes; None counts as 0, unless it is so in all of them."""
    if count() == 1:
        return
    every = [*parameters]
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
    given = own[0].new_tensor([p.grad is not None for p in every])
    givers, *parts = totals([given, *own])
    for parameter, gradient, giver, part in zip(every, own, givers.tolist(), parts, strict=True):
        parameter.grad = gradient.copy_(part / count()) if giver else None


def concatenated(own: Float[Tensor, "N *shape"]) -> Float[Tensor, "M *shape"]:
    """All: the tensors of all processes, which have the same shape, one after another."""
    if count() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(count())]
    with _together():
        dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def gathered(own: Value) -> list[Value]:
    """All: the objects of all processes, by their numbers."""
    if count() == 1:
        return [own]
    found: list[Any] = [None] * count()
    with _together():
        dist.all_gather_object(found, own)
    return found


def of_first(own: Value) -> Value:
    """All: the object of process 0."""
    if count() == 1:
        return own
    found = [own]
    with _together():
        dist.broadcast_object_list(found, src=0)
    return found[0]


def copy_first(module: nn.Module) -> None:
    """All: give a module the weights and buffers that it has in process 0."""
    if count() > 1:
        with _together():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)
