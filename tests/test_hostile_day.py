"""A part of the trials in benchmarks/ that take longer: damaged files, made-up requests, kills at random moments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied by fork")


@pytest.mark.parametrize(("trial", "count"), [("hostile_files", 100), ("hostile_requests", 500), ("kills", 5)])
def test_nothing_is_lost_and_nobody_let_in(trial: str, count: int) -> None:
    # In a process of its own: what is forked must have no other threads.
    command = [sys.executable, str(BENCHMARKS / f"{trial}.py"), "--count", str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
