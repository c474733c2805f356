"""A run folder while it is trained in: one process at a time, files whole at any moment, signals that save."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from shutil import which
from types import FrameType

from .. import processes
from ..agents.checkpoint.file import remove_unfinished, unfinished
from ..agents.checkpoint.schema import reading

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, what a cluster sends before it kills, and what a closed terminal sends."""


CONFIGURATION = "config.json"
UNREADABLE = "The configuration of the run can't be read"


def command(program: str) -> str:
    """How a shell starts a program of this environment: by its path where the environment isn't activated."""
    beside = Path(sys.executable).with_name(program)
    return quote(str(beside)) if which(program) is None and beside.is_file() else program


def check_new(run: Path) -> Path:
    """The folder of a new run.  Raises ValueError where it holds anything or can't be made.

    What a process that was killed at its very beginning left unfinished is nothing.
    """
    if run.exists() and (not run.is_dir() or set(run.iterdir()) - unfinished(run)):
        hint = f"; go on with it by --resume {run}" if (run / CONFIGURATION).is_file() else ""
        raise ValueError(f"Expect `out` to be a new or empty folder, actual: {run}{hint}")
    there = next(folder for folder in (run, *run.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"Expect `out` to be a folder that can be made, actual: {run}; {there} can't be written to")
    return run


def read_configuration(run: Path) -> str:
    """The text of a run folder's configuration.  Raises ValueError where there is none, or what is there is no text."""
    if not (file := run / CONFIGURATION).is_file():
        raise ValueError(f"Expect a run folder with a {CONFIGURATION}, actual: {run}")
    with reading(f"{UNREADABLE}: {file}"):
        return file.read_text()


def known(resume: Path | None, out: Path | None) -> Path | None:
    """The run folder to go on with: where torchrun has started the processes again, the one that they began."""
    again = resume is None and processes.restarted() and out is not None and (out / CONFIGURATION).is_file()
    return out if again else resume


def agreed(new: Callable[[], Path]) -> Path:
    """The new run folder of all processes, which the first one makes out."""
    run = processes.of_first(None if processes.rank() else new())
    assert run is not None
    return run


@contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Keep other processes from training in this folder, which is made where there is none.

    What a killed process left unfinished is removed.  The lock is the system's and ends with the process.  Raises
    ValueError where another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = os.open(run, os.O_RDONLY) if fcntl is not None else None
    try:
        try:
            if fcntl is not None and lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Expect a run folder that no other process trains in, actual: {run}") from None
        remove_unfinished(run)
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def on_signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call this for the first of `SIGNALS`; a second one has its usual effect, and so have all of them afterwards.

    Whoever started several processes hands each signal on, and may send another; these are all as the first.
    """
    before = {}

    def first(number: int, frame: FrameType | None) -> None:
        if not processes.launched():
            restore()
        handle(number, frame)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it for SIGHUP
            before[number] = signal.signal(number, first)
    try:
        yield
    finally:
        restore()
