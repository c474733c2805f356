"""What the agent sees, as pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan.analysis.frames import LARGEST, AgentView
from expirespan.envs import make_single, make_viewed
from gymnasium import spaces
from models import Blinker


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("expirespan/CorridorShort-v0", None, 24),
        ("expirespan/CorridorShort-v0", 5, 40),
        ("MiniGrid-MemoryS7-v0", None, 56),
        ("MiniGrid-MemoryS7-v0", 3, 24),
    ],
)
def test_a_minigrid_view_is_drawn_in_small_tiles(name: str, size: int | None, side: int) -> None:
    env = make_single(name, view_size=size)
    observation, _ = env.reset(seed=1)
    view = AgentView(env)(observation)
    assert view is not None and view.shape == (side, side, 3) and view.dtype == np.uint8 and view.any()


def test_another_environment_is_rendered_if_it_can_and_reduced() -> None:
    observation = np.zeros(4, dtype=np.float32)
    env = make_viewed("CartPole-v1")
    env.reset(seed=1)
    view = AgentView(env)(observation)
    assert view is not None and view.shape == (64, LARGEST, 3)
    assert AgentView(make_single("CartPole-v1"))(observation) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_that_is_observed_is_taken_as_it_is(channels: int) -> None:
    picture = np.arange(10 * 12 * channels).reshape(10, 12, channels).astype(np.uint8)
    view = AgentView(gym.make("CartPole-v1"))(picture)
    assert view is not None and (view == picture).all()
    large = AgentView(gym.make("CartPole-v1"))(np.repeat(picture, 100, axis=0))
    assert large is not None and large.shape == (LARGEST, 1, channels)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("name", ["expirespan/CorridorShort-v0", "MiniGrid-MemoryS7-v0"])
def test_remembered_views_are_what_would_be_drawn(name: str, size: int | None) -> None:
    env = make_single(name, view_size=size)
    observation, _ = env.reset(seed=1)
    env.action_space.seed(1)
    view = AgentView(env)
    for _ in range(60):
        np.testing.assert_array_equal(view(observation), AgentView(env)(observation))
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()


class Place(gym.ObservationWrapper):
    """Shows where the agent stands, which says nothing of the colour of the ball."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 99, (2,), np.int64)

    def observation(self, observation: Any) -> np.ndarray:
        inner: Any = self.unwrapped
        return np.array(inner.agent_pos)


@pytest.mark.parametrize("name", ["expirespan/CorridorShort-v0", "MiniGrid-MemoryS7-v0"])
def test_views_are_those_of_the_present_episode_whatever_is_observed(name: str) -> None:
    env = Place(make_single(name))
    view, drawn = AgentView(env), set()
    for seed in range(12):
        observation, _ = env.reset(seed=seed)
        inner: Any = env.unwrapped
        picture = view(observation)
        assert picture is not None
        np.testing.assert_array_equal(picture, inner.get_pov_render(8))
        drawn.add(picture.tobytes())
    assert len(drawn) > 1


def test_a_picture_with_its_channels_first_is_one_too() -> None:
    picture = np.arange(3 * 10 * 12).reshape(3, 10, 12).astype(np.uint8)
    view = AgentView(gym.make("CartPole-v1"))(picture)
    assert view is not None and (view == picture.transpose(1, 2, 0)).all()


class NoScreen(Blinker):
    """Fails to draw itself, as on a machine without a screen."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's form
    calls = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> Any:
        type(self).calls += 1
        raise RuntimeError("no display")


def test_drawing_that_fails_is_warned_of_and_not_tried_again() -> None:
    env = NoScreen("rgb_array")
    view = AgentView(env)
    with pytest.warns(UserWarning, match="is recorded without pictures, drawing it raised RuntimeError: no display"):
        assert view(np.zeros(2)) is None
    assert view(np.zeros(2)) is None and env.calls == 1
