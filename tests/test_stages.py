"""Curricula: one run in stages is what separate runs with --init-from are, and stops and goes on anywhere."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from expirespan import evaluate, train_agent
from expirespan.agents import MemoryPPO
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.cli.arguments import options
from expirespan.cli.config import from_json, parse_stages, read_run, read_stages, to_json
from expirespan.cli.stages import Position, as_arguments, position
from expirespan.envs import make_batched
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_scripts import train

ROOT = Path(__file__).parent.parent
SHARED = (
    "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 32 --batch-size 64 --width 16 --ff-width 16 --ramp 4 "
    "--max-span 40 --checkpoint-every 128 --timeline-every 0"
).split()
OWN = (
    "--env-args max_length=5 --total-steps 250 --ent-coef 0.02",
    "--env-args max_length=7 --total-steps 300 --num-envs 2 --learning-rate 3e-4 --gamma 0.9 --memory-budget 7",
    "--env-args max_length=6 --total-steps 250 --n-steps 16 --no-anneal",
)
FILE = """
[[stage]]
env_args = { max_length = 5 }
total_steps = 250
ent_coef = 0.02

[[stage]]
env_args = ["max_length=7"]
total_steps = 3e2
num-envs = 2
learning_rate = 3e-4
gamma = 0.9
memory_budget = 7

[[stage]]
env_args = { max_length = 6 }
total_steps = 250
n_steps = 16
anneal = false
"""
ENDS = [256, 256 + 320, 256 + 320 + 256]
"""Steps after each stage: whole rollouts of 128, 64 and 64."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stages.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which nothing went wrong."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "stages.toml").write_text(FILE)
    curriculum(folder / "stages.toml", folder / "whole")
    return folder / "whole"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of stages of 128 steps, an episode recorded at the end of each."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "stages.toml").write_text(re.sub("total_steps = .*", "total_steps = 128", FILE))
    curriculum(folder / "stages.toml", folder / "short", "--total-steps", 64, "--timeline-every", 1000)
    return folder / "short"


def curriculum(file: Path, run: Path, *more: object) -> None:
    train(*SHARED, "--stages", file, *more, "--out", run)


def state(run: Path) -> dict:
    """Weights, the optimizer's state, environments, memories and random numbers."""
    return read_checkpoint(run / "checkpoint.safetensors")[0]


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = state(one), state(other)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize("algo", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_stages_are_separate_runs_each_from_the_weights_before(
    algo: str, whole: Path, file: Path, tmp_path: Path
) -> None:
    start: list[object] = []
    for number, own in enumerate(OWN):
        run = tmp_path / f"run-{number}"
        train(*SHARED, "--algo", algo, *own.split(), *start, "--out", run)
        start = ["--init-from", run]
    if algo != "ppo":
        whole = tmp_path / "whole"
        curriculum(file, whole, "--algo", algo)
    assert_same(whole, tmp_path / "run-2")
    documents = [read_checkpoint(run / "checkpoint.safetensors")[1] for run in (whole, tmp_path / "run-2")]
    assert documents[0]["reward_scale"] == documents[1]["reward_scale"]
    assert documents[0]["controller"] == documents[1]["controller"]


@pytest.mark.parametrize(("rollout", "stage", "steps"), [(2, 1, 128), (3, 2, 256), (5, 2, 384)])
def test_a_stop_anywhere_loses_nothing(
    rollout: int,
    stage: int,
    steps: int,
    whole: Path,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collect, calls = MemoryPPO.collect_rollouts, []

    def interrupted(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == rollout:  # the stages have 2, 5 and 4
            os.kill(os.getpid(), signal.SIGINT)
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(MemoryPPO, "collect_rollouts", interrupted)
    with pytest.raises(SystemExit, match="130"):
        curriculum(file, tmp_path / "cut")
    monkeypatch.undo()
    said = f"Stopped and saved at {steps} steps, in stage {stage} of 3; go on with: expirespan-train --resume"
    assert said in capsys.readouterr().out
    at = position(tmp_path / "cut" / "checkpoint.safetensors")
    assert (at.stage, at.steps, at.began) == (stage, steps, [0, *ENDS][stage - 1])
    train("--resume", tmp_path / "cut")
    assert_same(whole, tmp_path / "cut")


def test_a_kill_between_stages_loses_nothing(
    whole: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = train_agent.start_from

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_agent, "start_from", killed)
    with pytest.raises(SystemExit, match="130"):
        curriculum(file, tmp_path / "cut")
    monkeypatch.setattr(train_agent, "start_from", begin)
    assert position(tmp_path / "cut" / "checkpoint.safetensors") == Position(stage=1, steps=ENDS[0], threads=1)
    train("--resume", tmp_path / "cut")
    assert_same(whole, tmp_path / "cut")


def test_a_new_training_in_python_knows_no_stages(whole: Path) -> None:
    env = make_batched("expirespan/CorridorShort-v0", 4, {"max_length": 6})
    model = MemoryPPO.load(whole, env, device="cpu")
    assert (model.stage, model.stage_began, model.n_steps) == (3, ENDS[1], 16)
    model.learn(4 * 64, reset_num_timesteps=True)
    assert (model.stage, model._current_progress_remaining) == (1, 0.25)  # as the last of four rollouts began


def test_one_folder_tells_of_all_stages(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    curriculum(file, run)
    said = capsys.readouterr()
    lengths, steps = (5, 7, 6), (250, 300, 250)
    for number, (length, total) in enumerate(zip(lengths, steps, strict=True), 1):
        assert f"Stage {number} of 3: expirespan/CorridorShort-v0 max_length={length}, {total} steps" in said.out
        assert f"stage {number} of 3: 100%" in said.err
    assert "Trained for 832 steps, in stage 3 of 3" in said.out
    assert f"--resume {run} --total-steps 1664   # as many steps again, all of them of the last stage" in said.out
    table = json.loads((run / "config.json").read_text())["stages"][1]
    assert table["env_args"] == ["max_length=7"] and table["gamma"] == 0.9 and table["memory_budget"] == 7
    assert "ramp" not in table and "seed" not in table
    assert [stage.total_steps for stage in read_stages(run)] == list(steps)
    assert read_run(run).env_args == ("max_length=6",) and not read_run(run).learning.anneal
    at = position(run / "checkpoint.safetensors")
    assert at == Position(stage=3, began=ENDS[1], steps=ENDS[2], threads=1)
    assert read_checkpoint(run / "best.safetensors")[1]["stage"] == 3
    events = EventAccumulator(str(run))
    events.Reload()
    logged = [event.step for event in events.Scalars("rollout/ep_rew_mean")]
    assert logged == sorted(logged) and set(ENDS) <= set(logged)
    evaluate.main([str(run), "--episodes", "20", "--json", str(tmp_path / "e.json")])
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["success_by_length"][-1]["to"] == 6 and figures["steps"] == ENDS[2]


def test_episodes_of_every_stage_are_recorded(short: Path) -> None:
    events = EventAccumulator(str(short))
    events.Reload()
    assert all(f"memory/episode/1000000/{steps}" in events.Tags()["tensors"] for steps in (128, 256, 384))


def test_more_steps_are_those_of_the_last_stage(
    whole: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, longer = shutil.copytree(whole, tmp_path / "run"), tmp_path / "longer"
    train("--resume", run, "--total-steps", ENDS[2])
    assert "has already trained for 832 steps" in capsys.readouterr().out
    train("--resume", run, "--total-steps", ENDS[2] + 64)
    assert [stage.total_steps for stage in read_stages(run)] == [250, 300, 320]
    file.write_text(FILE.replace("total_steps = 250\nn_steps", "total_steps = 320\nn_steps"))
    curriculum(file, longer)
    assert_same(run, longer)
    with pytest.raises(SystemExit, match=r"`total_steps` to be more than 576, the steps before the last stage, actual"):
        train("--resume", run, "--total-steps", 500)


def test_the_best_checkpoint_is_not_compared_with_other_tasks(short: Path) -> None:
    at, best = (position(short / f"{name}.safetensors") for name in ("checkpoint", "best"))
    assert at.stage == best.stage == 3 and best.steps > 256
    assert [stage.total_steps for stage in read_stages(short)] == [128] * 3  # those of the file, not the command line's


def test_options_of_the_file_of_the_command_line_and_of_a_stage_replace_each_other_in_this_order(
    tmp_path: Path,
) -> None:
    file = tmp_path / "stages.toml"
    file.write_text('algo = "a2c"\nramp = 2\ngamma = 0.5\n[[stage]]\ngamma = 0.25\n[[stage]]\ntarget = 1\n')
    with pytest.raises(ValueError, match=r"actual: --target; .* \(stage 2\)$"):
        parse_stages(["--stages", str(file)])
    file.write_text(file.read_text().replace("target = 1", 'env = "expirespan/Portal-v0"'))
    first, second = parse_stages([f"--stages={file}", "--gamma", "0.75", "--ramp", "3"])
    assert (first.algo, options(first)["ramp"], first.learning.gamma, first.env) == (
        "a2c",
        3,
        0.25,
        "expirespan/Corridor-v0",
    )
    assert (second.learning.gamma, second.env, second.total_steps) == (0.75, "expirespan/Portal-v0", 1_000_000)
    assert from_json(to_json((first, second))) == (first, second)


def test_a_single_stage_is_a_plain_run(tmp_path: Path) -> None:
    file = tmp_path / "stages.toml"
    file.write_text("[[stage]]\ngamma = 0.25\n")
    (only,) = parse_stages(["--stages", str(file)])
    assert only == parse_stages(["--gamma", "0.25"])[0]
    assert json.loads(to_json((only,)))["stages"] is None


def test_values_are_written_as_the_command_line_has_them() -> None:
    table = {"env": "a b", "anneal": False, "batch_size": "None", "env_args": {"x": "1", "y": [1], "z": True}}
    words = ["--env=a b", "--no-anneal", "--batch-size=None", "--env-args", 'x="1"', "y=[1]", "z=true"]
    assert as_arguments(table) == words


@pytest.mark.parametrize("twice", [{"num_envs": 3, "num-envs": 4}, {"anneal": True, "no-anneal": True}])
def test_an_option_stands_once_in_a_table(twice: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"Expect `{next(iter(twice))}` once in a table, actual: '.*' = .* as well"):
        as_arguments(twice)


@pytest.mark.parametrize("recipe", sorted((ROOT / "benchmarks" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_can_be_trained(recipe: Path) -> None:
    train_agent.check_stages(parse_stages(["--stages", str(recipe)]))
