"""The programs in examples/ run as a user runs them: train for one rollout, save, load and evaluate."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "cartpole_without_velocity": (1.0, 500.0, {"model", "best_model", "evaluations"}),
    "minigrid_subproc": (0.0, 1.0, {"model"}),
    "pendulum_vecnormalize": (-200 * 16.3, 0.0, {"model", "vecnormalize"}),
}
"""Of each program: the lowest and the highest return of its task, and what it leaves in its folder."""


@pytest.mark.parametrize("name", RUNS)
def test_example_trains_saves_loads_and_evaluates(name: str, tmp_path: Path) -> None:
    lowest, highest, files = RUNS[name]
    options = ["--total-steps", "512", "--episodes", "2", "--out", tmp_path / "run"]
    options += ["--num-envs", "2"] if name == "minigrid_subproc" else []
    ended = subprocess.run([sys.executable, EXAMPLES / f"{name}.py", *options], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"return (-?[\d.]+) \+/- [\d.]+ .*over 2 episodes", ended.stdout)
    assert found is not None, ended.stdout
    assert lowest <= float(found[1]) <= highest
    assert files <= {path.stem for path in (tmp_path / "run").iterdir()}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)
