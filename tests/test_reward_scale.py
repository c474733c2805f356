"""Rewards are scaled down where returns are large, and left alone where they are small."""

import json

import numpy as np
import pytest
from expirespan.agents.learn.reward_scale import RewardScale


def test_small_returns_are_left_alone() -> None:
    scale = RewardScale(2, gamma=0.5)
    rewards = [scale.scaled(np.array([0.25, -0.25]), np.array([False, True])) for _ in range(50)]
    assert scale.scale == 1 and rewards[-1].tolist() == [0.25, -0.25]


def test_large_returns_come_to_a_standard_deviation_of_one() -> None:
    scale, random = RewardScale(7, gamma=0.0), np.random.default_rng(1)
    for _ in range(997):
        scale.scaled(random.normal(0, 30, 7), np.zeros(7, dtype=bool))
    assert scale.scale == pytest.approx(30, rel=0.05)
    assert scale.scaled(np.full(7, 60.0), np.zeros(7, dtype=bool)) == pytest.approx(np.full(7, 2.0), rel=0.06)


def test_a_return_ends_with_its_episode_and_state_survives_json() -> None:
    scale, other = RewardScale(2, gamma=1.0), RewardScale(2, gamma=1.0)
    scale.scaled(np.array([100.0, 100.0]), np.array([True, False]))
    assert scale.state_dict()["returns"] == [0, 100]
    other.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    step = (np.array([3.0, 5.0]), np.array([False, False]))
    assert scale.scaled(*step).tolist() == other.scaled(*step).tolist()
    assert scale.state_dict() == other.state_dict()
    scale.begin_episodes(np.array([False, True]))
    assert scale.state_dict()["returns"] == [3, 0]


def test_an_adopted_scale_holds_at_first_and_gives_way() -> None:
    source, adopter = RewardScale(4, gamma=0.0), RewardScale(4, gamma=0.0)
    random = np.random.default_rng(1)
    for _ in range(30_000):
        source.scaled(random.normal(0, 30, 4), np.ones(4, dtype=bool))
    adopter.adopt(source.state_dict())
    assert adopter.scale == source.scale and adopter.state_dict()["returns"] == [0] * 4
    for _ in range(30_000):
        adopter.scaled(random.normal(0, 300, 4), np.ones(4, dtype=bool))
    assert adopter.scale > 200
