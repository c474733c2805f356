"""A critic that is told the steps since the episode began, and an actor that isn't."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan import MemoryA2C, MemoryPPO, train_agent
from expirespan.agents.checkpoint.file import read_checkpoint, write_checkpoint
from expirespan.agents.time_value import TIME_STEP, TimeValue
from expirespan.memory import CORES, CoreOutput, MemoryCore, Record
from expirespan.memory.core import TensorState
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

SMALL = {"memory": {"width": 8, "layers": 1}}


class Countdown(gym.Env):
    """Every step looks the same; the last of `length` earns 1."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    length = 6

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        over = self.time == self.length
        return np.zeros(1, np.float32), float(over), over, False, {}


def test_the_value_of_a_time_is_a_line_between_knots_four_for_each_doubling() -> None:
    value = TimeValue()
    with torch.no_grad():
        value.weight.copy_(torch.arange(65) ** 2 / TIME_STEP)
        found = value(torch.tensor([0, 1, 3, 7, 2, 65_535, 1_000_000]))
    between = 4 * np.log2(3)  # 6.34: between the squares of 6 and 7
    wanted = [0, 4**2, 8**2, 12**2, 36 + (between - 6) * 13, 64**2, 64**2]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("core", CORES)
def test_acting_and_training_go_by_the_same_time_and_the_actor_does_not(core: str) -> None:
    policy_kwargs = SMALL | {"core": core}
    policy = MemoryPPO("MlpPolicy", make_vec_env("CartPole-v1", 3), seed=0, policy_kwargs=policy_kwargs).policy
    policy.set_training_mode(False)
    critic = policy.time_value
    assert critic is not None
    obs, starts = torch.randn(7, 3, 4), torch.zeros(7, 3, dtype=torch.bool)
    starts[0], starts[3, 0], starts[5, 2] = True, True, True
    times = torch.tensor([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 3, 3], [1, 4, 4], [2, 5, 0], [3, 6, 1]])
    seen = {}
    for told in (False, True):
        if told:
            nn.init.normal_(critic.weight)
        state, acted, before = policy.initial_state(3), [], []
        for step in range(7):
            before.append(state)
            with torch.no_grad():
                acted.append(policy.act(obs[step], state, starts[step], deterministic=True))
            state = acted[-1].state
        for begin in (0, 4):  # from the beginning, and from a stored state
            with torch.no_grad():
                actions = torch.stack([step.actions for step in acted])[begin:]
                now = policy.evaluate_sequences(obs[begin:], actions, before[begin], starts[begin:])
            acted_values = torch.stack([step.values for step in acted])[begin:]
            torch.testing.assert_close(now.values, acted_values, rtol=0, atol=1e-5)
        torch.testing.assert_close(policy.predict_values(obs[6], before[6], starts[6]), acted[6].values)
        seen[told] = torch.stack([step.values for step in acted]), torch.stack([step.log_prob for step in acted])
    torch.testing.assert_close(seen[True][0] - seen[False][0], critic(times).detach(), rtol=0, atol=1e-5)
    assert torch.equal(seen[True][1], seen[False][1])


@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
def test_what_only_time_tells_is_learned(algorithm: type[MemoryPPO]) -> None:
    """With no memory and nothing to see, values of the steps differ by the time alone: gamma ** (steps left)."""
    known = {}
    for aware in (True, False):
        policy_kwargs = {"core": "none", "time_aware_critic": aware}
        model = algorithm("MlpPolicy", make_vec_env(Countdown, 8, seed=0), seed=0, policy_kwargs=policy_kwargs)
        model.learn(8_000 if algorithm is MemoryPPO else 40_000)
        state, starts, values = model.policy.initial_state(1), torch.ones(1, dtype=torch.bool), []
        for _ in range(Countdown.length):
            with torch.no_grad():
                action = model.policy.act(torch.zeros(1, 1), state, starts)
            state, starts = action.state, torch.zeros(1, dtype=torch.bool)
            values.append(action.values.item())
        known[aware] = np.array(values)
    wanted = 0.995 ** np.arange(Countdown.length - 1, -1, -1)
    assert np.ptp(known[False]) < 1e-6
    assert np.abs(known[True] - wanted).max() < 0.1


@dataclass(frozen=True, kw_only=True)
class Count(TensorState):
    """A state without a clock."""

    last: Tensor


class Clockless(MemoryCore[Count]):
    """Reads the present step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.layer = nn.Linear(8, 8)

    def initial_state(self, batch_size: int) -> Count:
        return Count(last=torch.zeros(batch_size, 8))

    def forward(self, x: Tensor, state: Count, resets: Tensor, *, record: Record = Record.STATE) -> CoreOutput[Count]:
        return CoreOutput(y=self.layer(x), state=Count(last=x[:, -1].detach()))


def test_a_core_without_a_clock_trains_with_a_critic_that_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CORES["none"], "build", lambda config: Clockless())
    model = MemoryPPO("MlpPolicy", make_vec_env("CartPole-v1", 2), policy_kwargs={"core": "none"})
    assert model.policy.time_value is None
    model.learn(128)


def test_it_is_an_option_and_stored(tmp_path: Path) -> None:
    env = make_vec_env("CartPole-v1", 2)
    with pytest.raises((ValueError, TypeError), match="time_aware_critic"):
        MemoryPPO("MlpPolicy", env, policy_kwargs={"time_aware_critic": "no"})
    without = MemoryPPO("MlpPolicy", env, policy_kwargs=SMALL | {"time_aware_critic": False}).learn(128)
    without.save(tmp_path / "without")
    loaded = MemoryPPO.load(tmp_path / "without", env=env)
    assert loaded.policy.time_value is None and loaded.policy.time_aware_critic is False


def test_a_run_may_start_from_one_whose_critic_was_not_told(tmp_path: Path) -> None:
    short = "--env CartPole-v1 --num-envs 2 --width 8 --layers 1 --timeline-every 0 --total-steps".split()
    train_agent.main([*short, "128", "--out", str(tmp_path / "old")])
    tensors, document = read_checkpoint(tmp_path / "old" / "checkpoint.safetensors")
    del tensors["policy/time_value.weight"]
    document["arguments"]["policy_kwargs"]["time_aware_critic"] = False
    write_checkpoint(tmp_path / "old" / "checkpoint.safetensors", tensors, document)
    train_agent.main([*short, "256", "--init-from", str(tmp_path / "old"), "--out", str(tmp_path / "new")])
    weight = read_checkpoint(tmp_path / "new" / "checkpoint.safetensors")[0]["policy/time_value.weight"]
    assert weight.abs().sum() > 0
