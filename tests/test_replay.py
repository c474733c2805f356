"""Episodes of environments that can't restore their state, played again: resumed training is exact there too."""

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import MemoryPPO
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.envs import make_batched
from expirespan.envs.replay import AnotherEpisode, ReplayedVectorEnv
from models import Blinker
from test_scripts import train

RUN = "--num-envs 3 --n-steps 32 --width 16 --ff-width 16 --ramp 4 --max-span 40 --timeline-every 0 --total-steps 768"


class Chancy(Blinker):
    """Draws what it shows from elsewhere."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + np.float32(np.random.default_rng().random()), *rest


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "MiniGrid-MemoryS7-v0"])
def test_a_resumed_run_is_exact_where_episodes_can_be_played_again(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train(*RUN.split(), "--env", env, "--out", tmp_path / "whole")
    collect, rollouts = MemoryPPO.collect_rollouts, []

    def interrupted(self: Any, *given: Any, **named: Any) -> bool:
        rollouts.append(None)
        if len(rollouts) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return collect(self, *given, **named)

    monkeypatch.setattr(MemoryPPO, "collect_rollouts", interrupted)
    with pytest.raises(SystemExit):
        train(*RUN.split(), "--env", env, "--out", tmp_path / "cut")
    train("--resume", tmp_path / "cut")
    assert "with new episodes" not in capsys.readouterr().out
    whole, cut = (read_checkpoint(tmp_path / name)[0] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def stepped(env: gym.vector.VectorEnv, steps: int) -> np.ndarray:
    env.action_space.seed(1)
    return np.stack([env.step(env.action_space.sample())[0].copy() for _ in range(steps)])


def test_another_source_of_chance_is_noticed() -> None:
    envs = [ReplayedVectorEnv([Chancy, Chancy]) for _ in range(2)]
    for env in envs:
        env.reset(seed=3)
    stepped(envs[0], 2)
    state = envs[0].state_dict()
    assert state is not None
    with pytest.raises(AnotherEpisode, match="observations and rewards"):
        envs[1].load_state_dict(state)


def test_episodes_go_on_as_they_would_have() -> None:
    first, second = (make_batched("CartPole-v1", 3) for _ in range(2))
    assert isinstance(first, ReplayedVectorEnv) and isinstance(second, ReplayedVectorEnv)
    first.reset(seed=3)
    stepped(first, 37)  # some rows have begun their second episode
    state = first.state_dict()
    assert state is not None
    second.load_state_dict(state)
    np.testing.assert_array_equal(stepped(second, 50), stepped(first, 50))
    state["arrays"]["actions"][0] = 7
    with pytest.raises(ValueError, match=r"actions in Discrete\(2\), actual: others"):
        second.load_state_dict(state)
    first.reset(options={"low": -0.01})
    assert first.state_dict() is None  # what the options were is not known
