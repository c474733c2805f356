"""The programs in examples/ run as a user runs them: train for one rollout, save, load and evaluate."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from expirespan.cli.config import parse_stages
from expirespan.cli.stages import position
from expirespan.train_agent import train
from optuna import TrialPruned, load_study
from optuna.trial import FixedTrial

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


def test_example_of_a_curriculum_trains(tmp_path: Path) -> None:
    stages = parse_stages(["--stages", str(EXAMPLES / "curriculum.toml"), "--out", str(tmp_path / "run")])
    shorter = [replace(stage, num_envs=4, total_steps=256, timeline_every=0) for stage in stages]
    train(*shorter)
    at = position(tmp_path / "run" / "checkpoint.safetensors")
    assert (at.stage, at.began, at.steps) == (2, 256, 512)


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    options = ["--env", "CartPole-v1", "--total-steps", "256", "--episodes", "2", "--storage", tmp_path / "search.db"]
    for trials in (1, 2):
        command = [sys.executable, EXAMPLES / "optuna_search.py", *options, "--trials", str(trials)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert f"{trials} trials, 0 given up early; best return " in ended.stdout
    study = load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'search.db'}")
    first, second = study.trials
    assert len(first.intermediate_values) == len(second.intermediate_values) == 7
    assert first.params != second.params  # the sampler does not begin again


class Hopeless(FixedTrial):
    """A trial that Optuna gives up at its first report."""

    def should_prune(self) -> bool:
        return True


def test_a_trial_whose_training_diverges_leaves_the_study_going(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = runpy.run_path(str(EXAMPLES / "optuna_search.py"))
    made = search["suggest"]
    large = {0: 1e25, 1: 1e-3}  # by trial
    monkeypatch.setitem(
        search["objective"].__globals__, "suggest", lambda trial: made(trial) | {"learning_rate": large[trial.number]}
    )
    options = "--env CartPole-v1 --trials 2 --total-steps 2048 --episodes 2".split()
    study = search["main"]([*options, "--storage", str(tmp_path / "search.db")])
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_a_trial_that_is_given_up_stops_training() -> None:
    search = runpy.run_path(str(EXAMPLES / "optuna_search.py"))
    drawn = {"width": 32, "ramp": 2.0, "position_window": 0, "learning_rate": 1e-3, "n_epochs": 2}
    drawn |= {"one_minus_gamma": 0.01, "ent_coef": 0.01, "memory_budget": 20.0}
    with pytest.raises(TrialPruned):
        search["objective"](Hopeless(drawn), "CartPole-v1", 4096, 2)


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*RUNS, "optuna_search"}
    assert {path.name for path in EXAMPLES.glob("*.toml")} == {"curriculum.toml"}
