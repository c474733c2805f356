"""Observations that are not what their space says (other number types, channels at the wrong end, NaN), and starts."""

from typing import Any

import numpy as np
import pytest
import torch
from expirespan.agents.actions import drawn_actions
from expirespan.agents.observations import check_kinds, prepare
from gymnasium import spaces
from models import Blinker, small
from stable_baselines3.common.vec_env import DummyVecEnv


def test_bytes_are_divided_by_255_whatever_type_they_come_in() -> None:
    space = spaces.Box(0, 255, (3, 16, 16), np.uint8)
    for dtype in (torch.uint8, torch.int64, torch.float32):
        assert (prepare(torch.full((1, 3, 16, 16), 255, dtype=dtype), space, "picture") == 1).all()
    real = spaces.Box(0, 1, (3, 16, 16), np.float32)
    assert (prepare(torch.ones(1, 3, 16, 16), real, "picture") == 1).all()


def test_channels_of_real_numbers_must_come_first() -> None:
    with pytest.raises(ValueError, match=r"to have their channels first, actual: .*64, 48, 3"):
        check_kinds("picture", spaces.Box(0, 1, (64, 48, 3), np.float32))
    assert check_kinds("picture", spaces.Box(0, 1, (3, 64, 48), np.float32)) == "picture"
    assert check_kinds("picture", spaces.Box(0, 255, (64, 48, 3), np.uint8)) == "picture"  # these are turned


class Broken(Blinker):
    """Its last observation is NaN."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return np.full_like(observation, np.nan) if truncated else observation, reward, terminated, truncated, info


def test_a_last_observation_that_is_nan_is_named() -> None:
    env = DummyVecEnv([Blinker, Broken])
    with pytest.raises(ValueError, match="NaN or infinity in the last observation of row 1"):
        small(env).learn(16)


def test_actions_are_counted_from_0_again_for_their_probabilities() -> None:
    assert drawn_actions(spaces.Discrete(3, start=5), np.array([5, 7])).tolist() == [0, 2]
    assert drawn_actions(spaces.MultiDiscrete([3, 2], start=[1, 4]), np.array([[3, 4]])).tolist() == [[2, 0]]


def test_another_number_of_environments_keeps_the_unit_of_rewards() -> None:
    model = small(DummyVecEnv([Blinker] * 2))
    model.reward_scale.load_state_dict({"returns": [1.0, 2.0], "mean": 0.0, "var": 16.0, "count": 1000.0})
    model.set_env(DummyVecEnv([Blinker] * 3))
    assert model.reward_scale.scale == 4
