"""A part of the trials in benchmarks/ that take longer: damaged files, made-up requests, kills at random moments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied by fork")

KILLS = """
import torch._dynamo  # 2 s, which every copy would take by itself when it makes a policy
import kills, trial
kills.TRAIN += " --total-steps 640 --timeline-every 0"
trial.finish(kills.main(10), 10, "kills")
"""
"""Ten, four SIGKILLs among them, of trainings of a quarter of the length and without recordings."""


@pytest.mark.parametrize(
    "command",
    [["hostile_files.py", "--count", "50"], ["hostile_requests.py", "--count", "500"], ["-c", KILLS]],
    ids=["hostile_files", "hostile_requests", "kills"],
)
def test_nothing_is_lost_and_nobody_let_in(command: list[str]) -> None:
    # In a process of its own: what is forked must have no other threads.
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=BENCHMARKS, env=surroundings)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
