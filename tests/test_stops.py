"""Training that ends before its end on the command line: a failing environment, a full disk, Ctrl-C, other threads."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan import train_agent
from models import Blinker
from stable_baselines3.common.logger import TensorBoardOutputFormat
from test_scripts import ROLLOUT, SMALL, train


class Failing(Blinker):
    """Fails at its 280th step, and shows what can't be played again."""

    stepped = 0

    def step(self, action: Any) -> Any:
        Failing.stepped += 1
        if Failing.stepped % 280 == 0:
            raise ValueError("the sensor is broken")
        observation, *rest = super().step(action)
        return observation + np.float32(np.random.default_rng().random()), *rest


def test_an_error_of_the_environment_keeps_its_traceback_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    gym.register("Failing-v0", lambda **given: Failing(**given))
    run, Failing.stepped = tmp_path / "run", 0
    arguments = [*SMALL[2:], "--env", "Failing-v0", "--total-steps", 4 * ROLLOUT, "--timeline-every", 0, "--out", run]
    arguments = [word for word in arguments if word not in ("--env-args", "max_length=6")]
    with pytest.raises(
        SystemExit, match=f"Its checkpoint is of 256 steps; go on with: expirespan-train --resume {run}"
    ):
        train(*arguments)
    said = capsys.readouterr().err
    assert 'raise ValueError("the sensor is broken")' in said and "ValueError: the sensor is broken" in said
    train("--resume", run)
    told = "Training goes on from 256 steps with new episodes: Failing-v0 can't restore where its episodes stood"
    assert told in capsys.readouterr().out


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(*SMALL, "--total-steps", ROLLOUT, "--out", run)
    before = (run / "checkpoint.safetensors").read_bytes()

    def full(path: Path, data: bytes) -> int:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        SystemExit, match=r"checkpoint\.safetensors could not be written, and is what it was before: No"
    ):
        train("--resume", run, "--total-steps", 3 * ROLLOUT)
    assert "Its checkpoint is of 128 steps; go on with" in capsys.readouterr().err
    assert (run / "checkpoint.safetensors").read_bytes() == before and not list(run.glob(".*"))


def test_training_goes_on_where_events_can_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoardOutputFormat, "write", full)
    train(*SMALL, "--total-steps", 2 * ROLLOUT, "--timeline-every", 0, "--out", tmp_path / "run")
    said = capsys.readouterr()
    assert "Trained for 256 steps" in said.out
    assert said.err.count("events can't be written at 128 steps, training goes on, its curves end here") == 1


def test_a_ctrl_c_before_training_is_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_agent, "new_model", interrupted)
    with pytest.raises(SystemExit, match="130"):
        train(*SMALL)
    assert capsys.readouterr().err == "expirespan-train: interrupted\n"


def test_another_number_of_threads_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, before = tmp_path / "run", torch.get_num_threads()
    train(*SMALL, "--total-steps", ROLLOUT, "--out", run)
    configuration = (run / "config.json").read_text()
    (run / "config.json").write_text(configuration.replace('"threads": 1', '"threads": 2'))
    train("--resume", run, "--total-steps", 2 * ROLLOUT)
    torch.set_num_threads(before)
    told = (
        "Training goes on from 128 steps with 2 threads of torch instead of 1, which add up in another order, so that"
    )
    assert told in capsys.readouterr().out
