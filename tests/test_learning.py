"""Corridor is learned, and only with memory (minutes long: `pytest -m slow`); so is the order of the last steps."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan import MemoryPPO, evaluate, train_agent
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "low", "high"), [((), 0.95, 1.0), (("--capacity", "0"), 0.4, 0.6)])
def test_short_corridors_need_memory(extra: tuple[str, ...], low: float, high: float, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = ["--env", "expirespan/CorridorShort-v0", "--total-steps", "300000", "--ramp", "2", "--memory-budget", "4"]
    train_agent.main([*short, *extra, "--out", str(run)])
    evaluate.main([str(run), "--episodes", "500", "--json", str(tmp_path / "e.json")])
    success = json.loads((tmp_path / "e.json").read_text())["success"]["mean"]
    assert low <= success <= high


class Previous(gym.Env):
    """What was shown one step ago has to be named: 1 for each time it is right, over 20 steps."""

    observation_space = action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._shown = [int(self.np_random.integers(3)) for _ in range(2)]
        self._steps = 0
        return self._shown[-1], {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        right = float(self._steps >= 1 and action == self._shown[-2])
        self._shown.append(int(self.np_random.integers(3)))
        self._steps += 1
        return self._shown[-1], right, self._steps == 20, False, {}


def test_the_order_of_the_last_steps_is_learned_by_default() -> None:
    env = make_vec_env(Previous, 16, seed=0)
    model = MemoryPPO("MlpPolicy", env, seed=0, device="cpu").learn(14_000)
    returns = [episode["r"] for episode in list(model.ep_info_buffer or ())[-50:]]
    assert np.mean(returns) > 11  # 19 at most, 6.3 by guessing; without a position window it stays at 7
