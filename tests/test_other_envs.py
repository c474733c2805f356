"""Environments of others: what is taken as it comes, adapted or refused."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import GymnasiumVecEnv, MemoryPPO
from expirespan.agents.vec_env import seen_by_policies
from expirespan.analysis.evaluation import evaluate_policy as play
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.wrappers import ImgObsWrapper
from models import Blinker, corridor, rows_of, small, weights
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv


class Mixed(gym.Env):
    """A dictionary of numbers in, continuous actions out."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(5)})
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), float(action.flat[0]), self.steps > 5, False, {}


class Table(Mixed):
    """Actions in rows and columns."""

    action_space = spaces.Box(-1, 1, (2, 3))


class Pixels(gym.Env):
    """Pictures in colour in, several switches out."""

    observation_space = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    action_space = spaces.MultiBinary(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.asarray(action, dtype=np.int8))
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 5, False, {}


@pytest.mark.parametrize(
    "env",
    [
        lambda: "CartPole-v1",
        lambda: "expirespan/CorridorShort-v0",
        lambda: ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0")),
        Mixed,
        Table,
        Pixels,
        lambda: DummyVecEnv([Mixed, Mixed]),
    ],
)
def test_other_environments_train_and_evaluate(env: Any, tmp_path: Path) -> None:
    model = small(env(), batch_size=16)
    before = weights(model)
    model.learn(48)
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    player: Any = model  # SB3 declares states to be tuples of arrays, and only hands them back
    evaluate_policy(player, rows_of(model), n_eval_episodes=3, warn=False)
    model.save(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", device="cpu").action_space == model.action_space


def test_pictures_are_evaluated_as_they_were_trained_on() -> None:
    model = small(Pixels(), batch_size=16)
    model.learn(16)
    rows = SyncVectorEnv([Pixels] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert seen_by_policies(rows.single_observation_space, model.policy.observations) == model.observation_space
    assert play(model.policy, rows, 4, 1).returns.tolist() == [6.0] * 4


def test_minigrids_text_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"wrap it in minigrid\.wrappers\.ImgObsWrapper"):
        small(gym.make("expirespan/Corridor-v0"))


def test_another_environment_can_be_set() -> None:
    model = small()
    model.set_env(corridor())
    model.learn(64)
    assert model.num_timesteps == 64


def test_vector_environments_with_next_step_autoreset_are_refused() -> None:
    with pytest.raises(ValueError, match="same-step or disabled autoreset, actual: NextStep"):
        GymnasiumVecEnv(SyncVectorEnv([Blinker]))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_adapter_keeps_terminal_observations(mode: AutoresetMode) -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Blinker, Blinker], autoreset_mode=mode))
    env.reset()
    for step in range(1, 7):
        obs, rewards, dones, infos = env.step(np.array([0, 1]))
        assert dones.tolist() == [step % 3 == 0] * 2 and rewards.tolist() == [1, 1]
        assert isinstance(obs, np.ndarray) and obs[:, 0].tolist() == [step % 3] * 2
        if dones[0]:
            assert infos[1]["terminal_observation"].tolist() == [3, 1] and infos[1]["TimeLimit.truncated"]


def test_adapter_hands_out_observations_that_later_steps_leave_alone() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Blinker, Blinker], copy=False, autoreset_mode=AutoresetMode.SAME_STEP))
    first = env.reset()
    second = env.step(np.array([0, 1]))[0]
    env.step(np.array([0, 1]))
    assert isinstance(second, np.ndarray) and first[:, 0].tolist() == [0, 0] and second[:, 0].tolist() == [1, 1]
