"""The command line, run in-process for seconds: train, interrupt, resume, evaluate, and wrong arguments."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan import evaluate, train_agent
from expirespan.agents import MemoryPPO, callbacks
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.analysis import inspection, storage
from expirespan.analysis.figures import nice_bins
from expirespan.cli import config as train_config
from expirespan.cli.run_folder import command, in_use
from expirespan.envs.replay import ReplayedVectorEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from models import Blinker
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = (
    "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 32 --batch-size 64 --width 16 --ff-width 16 --ramp 4 "
    "--max-span 40 --checkpoint-every 128 --timeline-every 0 --env-args max_length=6"
).split()
"""Without recordings, whose pictures take longer than the training; what checks them asks for them."""
ROLLOUT = 4 * 32


def train(*arguments: object) -> None:
    train_agent.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rollout, to be read only."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(*SMALL, "--total-steps", ROLLOUT, "--out", run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The same run, to write into and to go on with."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rollouts in which nothing went wrong."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(*SMALL, "--total-steps", 4 * ROLLOUT, "--out", run)
    return run


def policy_weights(run: Path) -> dict:
    tensors = load_file(run / "checkpoint.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("policy/", "optimizer/"))}


def test_train_then_evaluate_leaves_everything_in_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    train(*SMALL, "--timeline-every", 2 * ROLLOUT, "--total-steps", 3 * ROLLOUT, "--out", run)
    said = capsys.readouterr().out
    for told in (f"expirespan-evaluate {run}", f"tensorboard --logdir {run}", f"--resume {run} --total-steps 768"):
        assert told in said
    assert "Trained for 384 steps\n  return 0." in said and "(mean of the last " in said
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()
    assert {"timeline/memories", "timeline/frames"} <= set(tags["images"])
    assert all(f"memory/episode/1000000/{steps * ROLLOUT}" in tags["tensors"] for steps in (2, 3))
    assert {"spans/spans_layer_1", "spans/spans_layer_2"} <= set(tags["histograms"])
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps", "memory/live_layer_1"} <= set(tags["scalars"])
    evaluate.main([str(run), "--episodes", "30", "--json", str(tmp_path / "e.json"), "--timeline", "--gif"])
    printed = capsys.readouterr().out
    for line in ("mean return", "success", "length", "layer 1", "retention score", "everything", "steps per second"):
        assert line in printed
    for name in ("timeline.png", "episode.gif"):
        assert (run / name).is_file() and f"wrote {run / name}" in printed
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["episodes"] == 30 and len(figures["layers"]) == 2
    assert sum(row["episodes"] for row in figures["success_by_length"]) == 30


def test_episodes_are_recorded_on_request(run: Path, capsys: pytest.CaptureFixture) -> None:
    evaluate.main([str(run), "--episodes", "4", "--seed", "11", "--record", "2", "--attention"])
    printed = capsys.readouterr().out
    for seed in (11, 12):
        path = run / "episodes" / f"{seed}.npz"
        assert f"wrote {path}" in printed
        trace = storage.load(path)
        steps = len(trace.relevant)
        assert trace.frames is not None and trace.frames.shape == (steps, 24, 24, 3) and trace.frames.any()
        assert np.isfinite(trace.values).all() and trace.episode_end in ("terminated", "truncated")
        for layer in trace.layers:
            assert layer.attention is not None and set(layer.attention.query) == set(range(steps))
            kept = layer.deleted[layer.attention.memory] > layer.attention.query
            assert kept.all()
    with pytest.raises(SystemExit, match="`attention` to come with `record`, actual: record 0"):
        evaluate.main([str(run), "--attention"])


def actions_of(path: Path) -> list[int]:
    return storage.load(path).actions.tolist()


def test_sampled_actions_of_an_episode_are_those_of_its_seed_and_all_pictures_show_them(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for name in ("save_timeline", "save_episode_gif", "save_filmstrip"):
        monkeypatch.setattr(evaluate, name, lambda trace, *rest: shown.append(trace.actions.tolist()))
    sampled = [str(run), "--episodes", "4", "--sample", "--num-envs", "4"]
    evaluate.main([*sampled, "--seed", "5", "--timeline", "--gif", "--filmstrip", "0", "--record", "2"])
    first, second = (actions_of(run / "episodes" / f"{seed}.npz") for seed in (5, 6))
    assert shown == [first] * 3 and first != second
    evaluate.main([*sampled, "--seed", "6", "--record", "1"])
    assert actions_of(run / "episodes" / "6.npz") == second


def test_a_filmstrip_of_a_step_that_is_not_there_is_refused_before_the_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_policy", None)
    with pytest.raises(SystemExit, match="`filmstrip` to be less than 30, the most steps of an episode of expirespan/"):
        evaluate.main([str(run), "--filmstrip", "30"])
    monkeypatch.setattr(evaluate, "step_limit", lambda env: None)
    with pytest.raises(SystemExit, match=r"less than \d+, the steps of the episode of seed 7, actual: 999"):
        evaluate.main([str(run), "--filmstrip", "999", "--seed", "7"])


def test_two_runs_are_compared_by_their_best_checkpoints_and_own_budgets(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, taken, found = [trained, tmp_path / "two"], [], []
    train(*SMALL, "--total-steps", ROLLOUT, "--memory-budget", 7.5, "--out", runs[1])
    load, inspect = train_agent.load_model, inspection.inspect_memory

    def loaded(run: Path, **options: Any) -> Any:
        taken.append((run.name, options["name"]))
        return load(run, **options)

    def inspected(*arguments: Any) -> Any:
        taken.append(("budget", arguments[6]))
        found.extend([] if found else [inspect(*arguments)])  # one report does for both
        return found[0]

    monkeypatch.setattr(evaluate, "load_model", loaded)
    monkeypatch.setattr(evaluate, "inspect_memory", inspected)
    evaluate.main([str(runs[0]), "--episodes", "2", "--best", "--sample", "--compare", str(runs[1])])
    best = "best.safetensors"
    # The other run is looked at first, for whether it can be compared at all.
    assert taken == [("run", best), ("two", best), ("budget", 20), ("two", best), ("budget", 7)]


def test_a_run_with_no_recordings_asked_for_has_none(trained: Path) -> None:
    events = EventAccumulator(str(trained))
    events.Reload()
    assert not [tag for tag in events.Tags()["tensors"] if tag.startswith("memory/episode")]


def test_counts_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    words = ["--total-steps", "1e6", "--checkpoint-every=2_000", "--timeline-every", "2.5k", "--n_steps", "1k"]
    config = train_config.parse([*words, "--batch-size", "None", "--num-envs", "1e2"])
    assert config.num_envs == 100
    counts = (config.total_steps, config.checkpoint_every, config.timeline_every, config.learning.n_steps)
    assert counts == (1_000_000, 2_000, 2_500, 1_000) and config.learning.batch_size is None
    assert train_config.parse(["--total-steps", "1M"]).total_steps == 1_000_000


def test_the_closing_lines_say_that_the_budget_is_not_met(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    long = [word.replace("max_length=6", "max_length=20") for word in SMALL]
    train(*long, "--total-steps", 4 * ROLLOUT, "--memory-budget", 5, "--out", tmp_path / "run")
    said = capsys.readouterr()
    assert "live memories per layer: the budget of 5 is not met yet" in said.out
    assert " of 5]" in said.err  # the bar


def test_an_environment_without_a_time_limit_ends_training_and_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless: Any = Endless  # Gymnasium declares that constructors take any arguments
    gym.register("Endless-v0", endless)
    monkeypatch.setitem(gym.registry, "Endless-v0", gym.registry["Endless-v0"])
    monkeypatch.setattr(evaluate, "WITHOUT_LIMIT", 50)
    run = tmp_path / "run"
    train(
        "--env",
        "Endless-v0",
        "--num-envs",
        2,
        "--n-steps",
        16,
        "--total-steps",
        32,
        "--timeline-every",
        0,
        "--out",
        run,
    )
    evaluate.main([str(run), "--episodes", "6", "--num-envs", "2", "--json", str(tmp_path / "e.json")])
    figures = json.loads((tmp_path / "e.json").read_text())
    assert (figures["episodes"], figures["cut_off"], figures["mean_steps"]) == (2, 2, 50)
    assert "cut off           2 episodes after 50 steps" in capsys.readouterr().out
    evaluate.main([str(run), "--episodes", "2", "--max-episode-steps", "7", "--json", str(tmp_path / "e.json")])
    assert json.loads((tmp_path / "e.json").read_text())["mean_steps"] == 7


class Endless(Blinker):
    """Never ends."""

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        self.steps = self.steps % 9
        return observation, reward, False, False, info


def test_evaluation_is_the_same_for_the_same_seed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = []
    for _ in range(2):
        evaluate.main([str(trained), "--episodes", "20", "--sample", "--json", str(tmp_path / "e.json")])
        results.append(json.loads((tmp_path / "e.json").read_text()))
    assert results[0]["mean_return"] == results[1]["mean_return"] and results[0]["layers"] == results[1]["layers"]


@pytest.mark.parametrize("algo", ["ppo", pytest.param("a2c", marks=pytest.mark.slow)])
def test_resuming_is_exact(algo: str, tmp_path: Path) -> None:
    steady = [*SMALL, "--algo", algo, "--no-anneal"]  # an annealed step size depends on the total
    train(*steady, "--total-steps", 4 * ROLLOUT, "--out", tmp_path / "whole")
    train(*steady, "--total-steps", 2 * ROLLOUT, "--out", tmp_path / "half")
    train("--resume", tmp_path / "half", "--total-steps", 4 * ROLLOUT)
    whole, half = policy_weights(tmp_path / "whole"), policy_weights(tmp_path / "half")
    assert whole.keys() == half.keys()
    assert all(whole[name].equal(half[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    number: signal.Signals,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collect, calls = MemoryPPO.collect_rollouts, []

    def interrupted(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return collect(self, *args, **kwargs)

    handlers = [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(MemoryPPO, "collect_rollouts", interrupted)
    with pytest.raises(SystemExit) as ended:
        train(*SMALL, "--total-steps", 4 * ROLLOUT, "--out", tmp_path / "cut")
    assert ended.value.code == 128 + number
    assert [signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert f"expirespan-train --resume {tmp_path / 'cut'}" in capsys.readouterr().out
    monkeypatch.undo()
    train("--resume", tmp_path / "cut")
    expected, cut = policy_weights(whole), policy_weights(tmp_path / "cut")
    assert all(expected[name].equal(cut[name]) for name in expected)


def test_the_best_checkpoint_by_training_return_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, returns = tmp_path / "run", iter([1.0, 3.0, 3.0, 2.0, 2.5, 2.0, 3.5, 1.0])
    monkeypatch.setattr(callbacks, "standing", lambda episodes: (100, next(returns)))
    train(*SMALL, "--total-steps", 4 * ROLLOUT, "--out", run)
    kept = [read_checkpoint(run / f"{name}.safetensors")[1]["num_timesteps"] for name in ("best", "checkpoint")]
    assert kept == [3 * ROLLOUT, 4 * ROLLOUT]
    # Resumed it asks what the best had earned, 2.5 here, before it compares.
    train("--resume", run, "--total-steps", 7 * ROLLOUT)
    assert read_checkpoint(run / "best.safetensors")[1]["num_timesteps"] == 6 * ROLLOUT
    monkeypatch.undo()
    for extra, steps in (([], 7 * ROLLOUT), (["--best"], 6 * ROLLOUT)):
        evaluate.main([str(run), "--episodes", "4", "--json", str(tmp_path / "e.json"), *extra])
        assert json.loads((tmp_path / "e.json").read_text())["steps"] == steps


def test_many_episodes_say_more_than_few() -> None:
    one, other = [{"r": np.float32(1.0)}] * 3, [{"r": 2.0}]
    assert callbacks.standing(one) > callbacks.standing(other) > callbacks.standing(())
    assert callbacks.standing([{"r": 0.5}, {"r": 1.0}]) < callbacks.standing([{"r": 1.0}, {"r": 0.6}])


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "checkpoint.safetensors").unlink()
    train("--resume", run)
    assert f"{run} holds no checkpoint: training begins anew, at step 0" in capsys.readouterr().out


def test_a_run_that_was_killed_before_its_first_checkpoint_logs_no_step_twice(tmp_path: Path) -> None:
    run, logged = tmp_path / "run", []
    train(*SMALL, "--total-steps", 2 * ROLLOUT, "--out", run)
    for killed in (False, True):
        if killed:
            (run / "checkpoint.safetensors").unlink()
            train("--resume", run)
        events = EventAccumulator(str(run))
        events.Reload()
        logged.append([event.step for event in events.Scalars("time/fps")])
    assert logged[0] == logged[1] == [ROLLOUT, 2 * ROLLOUT]


def test_a_resumed_run_may_record_less_or_more(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(*SMALL, "--timeline-every", 4 * ROLLOUT, "--total-steps", ROLLOUT, "--out", run)
    train("--resume", run, "--total-steps", 2 * ROLLOUT, "--timeline-every", 0)
    assert train_config.read_run(run).timeline_every == 0


def test_a_run_folder_has_one_process_and_nothing_unfinished(run: Path, capsys: pytest.CaptureFixture) -> None:
    left = run / ".checkpoint.safetensors.123.unfinished"
    left.write_bytes(b"half")
    with in_use(run), pytest.raises(SystemExit, match=f"a run folder that no other process trains in, actual: {run}"):
        train("--resume", run, "--total-steps", 2 * ROLLOUT)
    assert not left.exists()
    train("--resume", run, "--total-steps", 2 * ROLLOUT)  # the lock is gone with its holder


def test_a_finished_run_says_so_when_resumed(run: Path, capsys: pytest.CaptureFixture) -> None:
    train("--resume", run)
    assert "has already trained for 128 steps" in capsys.readouterr().out
    before = (run / "config.json").read_text()
    train("--resume", run, "--total-steps", 50)
    assert (run / "config.json").read_text() == before


def test_a_folder_in_use_is_not_trained_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=f"`out` to be a new or empty folder, actual: {tmp_path}$"):  # no run to resume
        train(*SMALL, "--out", tmp_path)


def test_a_run_can_start_from_the_weights_of_another(trained: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    longer = [word.replace("max_length=6", "max_length=9") for word in SMALL]
    # A step size so small that the weights stay what they were.
    still = ["--learning-rate", "1e-12", "--memory-budget", "None", "--init-from", trained]
    train(*longer, "--total-steps", ROLLOUT, *still, "--out", second)
    before, after = policy_weights(trained), policy_weights(second)
    for name, tensor in before.items():
        if name.startswith("policy/"):
            torch.testing.assert_close(after[name], tensor)
    counts = [
        read_checkpoint(folder / "checkpoint.safetensors")[1]["reward_scale"]["count"] for folder in (trained, second)
    ]
    assert counts == [pytest.approx(ROLLOUT), pytest.approx(2 * ROLLOUT)]  # values come with their unit
    with pytest.raises(SystemExit, match=r"`init_from` to be a run with ramp 5.0, actual: ramp 4.0$"):
        train(*SMALL, "--ramp", "5", "--init-from", trained, "--out", tmp_path / "third")
    with pytest.raises(SystemExit, match="`init_from` to be a run with the observation_space"):
        train(*SMALL, "--view-size", "5", "--init-from", trained, "--out", tmp_path / "third")
    with pytest.raises(SystemExit, match=r"a run folder with a config\.json"):
        train(*SMALL, "--init-from", tmp_path / "nowhere", "--out", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_seeds_differ_where_they_start_from_the_same_weights(trained: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        other = ["--num-envs", 2, "--batch-size", 64, "--seed", seed, "--init-from", trained]
        train(*SMALL, "--total-steps", 64, *other, "--out", tmp_path / str(seed))
    draws = [load_file(tmp_path / str(seed) / "checkpoint.safetensors")["random/torch"] for seed in (1, 2)]
    assert not draws[0].equal(draws[1])


def test_new_episodes_of_a_resumed_run_are_not_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int | None] = []
    reset = CartPoleEnv.reset

    def noted(self: CartPoleEnv, *, seed: int | None = None, options: dict | None = None):
        seeds.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(CartPoleEnv, "reset", noted)
    monkeypatch.setattr(ReplayedVectorEnv, "state_dict", lambda self: None)  # as where it can't be played again
    pole = ["--env", "CartPole-v1", "--num-envs", 2, "--n-steps", 16, "--batch-size", 32, "--timeline-every", 0]
    train(*pole, "--total-steps", 64, "--out", tmp_path / "run")
    train("--resume", tmp_path / "run", "--total-steps", 128)
    given = [seed for seed in seeds if seed is not None]
    assert len(given) == 4 and given[:2] == [0, 1] and given[3] == given[2] + 1 and given[2] > 1


def test_evaluating_what_is_no_run_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"a run folder with a config\.json, actual:"):
        evaluate.main([str(tmp_path)])


def test_evaluating_on_an_environment_with_other_observations_is_refused(trained: Path) -> None:
    with pytest.raises(SystemExit, match="`env` to have the observation space"):
        evaluate.main([str(trained), "--env", "expirespan/Corridor-v0", "--env-args", "view_size=5"])


def test_bins_are_round_and_cover_everything() -> None:
    assert nice_bins(np.arange(3, 201)) == [(1, 50), (51, 100), (101, 150), (151, 200)]
    assert nice_bins(np.arange(3, 21)) == [(1, 5), (6, 10), (11, 15), (16, 20)]
    assert nice_bins(np.array([7])) == [(7, 7)]


def test_programs_that_the_shell_does_not_find_are_told_by_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("expirespan-train") == "expirespan-train"
    monkeypatch.setenv("PATH", "")
    assert command("expirespan-train") == str(Path(sys.executable).with_name("expirespan-train"))
    assert command("no-program") == "no-program"
