"""Rewards are scaled down where returns are large, and left alone where they are small."""

import json

import numpy as np
import pytest
from expirespan.agents.learn.reward_scale import RewardScale


def rollout(scale: RewardScale, *steps: tuple[np.ndarray, np.ndarray]) -> None:
    """A rollout of these steps: rewards, and the episodes that end."""
    scale.begin_rollout(np.zeros(len(steps[0][0]), dtype=bool))
    for rewards, dones in steps:
        scale.note(rewards, dones)
    scale.end_rollout()


def test_small_returns_are_left_alone() -> None:
    scale = RewardScale(2, gamma=0.5)
    rollout(scale, *[(np.array([0.25, -0.25]), np.array([False, True]))] * 50)
    assert scale.scale == 1


def test_large_returns_come_to_a_standard_deviation_of_one() -> None:
    scale, random = RewardScale(7, gamma=0.0), np.random.default_rng(1)
    for _ in range(100):
        rollout(scale, *[(random.normal(0, 30, 7), np.zeros(7, dtype=bool)) for _ in range(10)])
    assert scale.scale == pytest.approx(30, rel=0.05)


def test_a_return_ends_with_its_episode_and_state_survives_json() -> None:
    scale, other = RewardScale(2, gamma=1.0), RewardScale(2, gamma=1.0)
    rollout(scale, (np.array([100.0, 100.0]), np.array([True, False])))
    assert scale.state_dict()["returns"] == [0, 100]
    other.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    step = (np.array([3.0, 5.0]), np.array([False, False]))
    rollout(scale, step)
    rollout(other, step)
    assert scale.state_dict() == other.state_dict()
    scale.begin_rollout(np.array([False, True]))
    assert scale.state_dict()["returns"] == [3, 0]


def test_an_unfinished_rollout_leaves_the_statistics_alone() -> None:
    scale, other = RewardScale(2, gamma=1.0), RewardScale(2, gamma=1.0)
    scale.note(np.array([900.0, 100.0]), np.array([True, True]))
    for one in (scale, other):
        rollout(one, (np.array([3.0, 5.0]), np.array([False, False])))
    assert scale.state_dict() == other.state_dict()


def test_an_adopted_scale_holds_at_first_and_gives_way() -> None:
    source, adopter = RewardScale(4, gamma=0.0), RewardScale(4, gamma=0.0)
    random = np.random.default_rng(1)
    for _ in range(300):
        rollout(source, *[(random.normal(0, 30, 4), np.ones(4, dtype=bool)) for _ in range(100)])
    adopter.adopt(source.state_dict())
    assert adopter.scale == source.scale and adopter.state_dict()["returns"] == [0] * 4
    for _ in range(300):
        rollout(adopter, *[(random.normal(0, 300, 4), np.ones(4, dtype=bool)) for _ in range(100)])
    assert adopter.scale > 200
