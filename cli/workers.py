"""Several processes of one training: started on one machine by `--workers`, or by torchrun on any number of them."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .. import processes
from .arguments import leave

PATIENCE = 600
"""Seconds that processes have to save and stop once a signal asks them to."""
UNTIL_TOLD = 5.0
"""Seconds after which another process than the first tells of its error: the same one in all is told once."""


def run_workers(
    prog: str, module: str, args: list[str], workers: int, run: Path, how_to_go_on: Callable[[Path], str]
) -> None:
    """Train in several processes into a run folder, by a module of a program and its arguments.

    Leaves with their exit code where they have said themselves why they failed, and with 128 and the number of the
    signal where one stopped this process: they save first.  Of one that was killed it is said here, with what is saved.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=PATIENCE,
    )
    os.environ[processes.LAUNCHER] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", module, *args)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as failed:
        codes = {number: failure.exitcode for number, failure in failed.failures.items()}
        # The others end by errors of their own or by SIGTERM, which the launcher sends them.
        killed = {number: code for number, code in codes.items() if code < 0 and -code != signal.SIGTERM}
        if not killed and max(codes.values()) > 0:
            sys.exit(max(codes.values()))
        number, code = next(iter((killed or codes).items()))
        killed_by = signal.Signals(-code).name
        sys.exit(f"{prog}: process {number} of {workers} was ended by {killed_by}. {how_to_go_on(run)}")
    finally:
        del os.environ[processes.LAUNCHER]  # of a torchrun that this process may start, another one


def check_rows(name: str, rows: int, workers: int) -> None:
    """Raise ValueError where so many rows can't be shared out evenly."""
    if rows % workers:
        raise ValueError(f"Expect `{name}` to be a multiple of the {workers} processes, actual: {rows}")


def tell(text: str, **more: Any) -> None:
    """Print, in the first process alone."""
    if processes.rank() == 0:
        print(text, **more)


def leave_one(prog: str, error: Exception) -> None:
    """`leave`, of one of several processes, which may have parted from the others already."""
    if (number := os.environ.get("RANK", "0")) != "0" and processes.launched():
        time.sleep(UNTIL_TOLD)
        prog = f"{prog}, process {number}"
    leave(prog, error)
