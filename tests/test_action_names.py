"""What an environment calls its actions, from the environment into a recorded episode's file."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.agents.action_names import action_names
from expirespan.analysis import storage
from expirespan.analysis.evaluation import record_episode
from expirespan.envs import make_single
from gymnasium import spaces
from models import small
from recordings import made_up

MINIGRID = ("left", "right", "forward", "pickup", "drop", "toggle", "done")


class Reversed(gym.ActionWrapper):
    """Gives the environment the opposite number."""

    def action(self, action: Any) -> Any:
        return self.env.action_space.n - 1 - action  # pyright: ignore[reportAttributeAccessIssue]  # a Discrete space


class Atari(gym.Env):
    """Names its actions as Atari's environments do."""

    def __init__(self, space: gym.Space) -> None:
        self.action_space = space

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "UP"]


@pytest.mark.parametrize(
    ("env", "names"),
    [
        (make_single("expirespan/CorridorShort-v0"), ("RIGHT", "DOWN", "LEFT", "UP")),
        (make_single("MiniGrid-MemoryS7-v0"), MINIGRID),
        (Reversed(make_single("MiniGrid-MemoryS7-v0")), ()),
        (make_single("CartPole-v1"), ()),
        (make_single("Pendulum-v1"), ()),
        (Atari(spaces.Discrete(3)), ("NOOP", "FIRE", "UP")),
        (Atari(spaces.Discrete(4)), ()),
        (Atari(spaces.Discrete(3, start=-1)), ()),
    ],
)
def test_actions_have_the_names_that_the_environment_gives_them(env: gym.Env, names: tuple[str, ...]) -> None:
    assert action_names(env) == names


def test_a_recorded_episode_carries_the_names_and_so_does_its_file() -> None:
    env = make_single("expirespan/CorridorShort-v0")
    trace = record_episode(small().policy, env, 3)
    assert trace.action_names == ("RIGHT", "DOWN", "LEFT", "UP")
    assert storage.from_bytes(storage.to_bytes(trace)).action_names == trace.action_names


def test_a_file_without_names_is_read_and_names_that_are_no_text_are_refused() -> None:
    arrays = storage.to_arrays(made_up(7, 1))
    assert "action_names" not in arrays and arrays["version"] == 1  # as files were before actions had names
    assert storage.from_arrays(arrays).action_names == ()
    assert storage.to_arrays(replace(made_up(7, 1), action_names=("a", "bc")))["action_names"].tolist() == ["a", "bc"]
    with pytest.raises(ValueError, match="action_names of type int64 and shape"):
        storage.from_arrays(arrays | {"action_names": np.arange(2)})
