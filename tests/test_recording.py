"""Episodes recorded while a model trains, as a user of the Python interface asks for them."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expirespan import RecordEpisodes
from expirespan.agents import MemoryPPO
from expirespan.analysis.evaluation import record_episode
from expirespan.analysis.record import EpisodeTrace
from expirespan.envs import make_single
from expirespan.tab import recording
from gymnasium import spaces
from models import Blinker, corridor, small
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_frames import NoScreen


def learn(env: Any, eval_env: Any, folder: Path, steps: int = 128, **options: Any) -> tuple[MemoryPPO, list[str]]:
    """A model trained with recordings, and the tags of what was recorded."""
    model = small(env, batch_size=None, tensorboard_log=str(folder))
    settings: dict[str, Any] = {"every": 64, "seed": 7} | options
    model.learn(steps, callback=RecordEpisodes(eval_env, **settings))
    assert model.logger.dir is not None
    events = EventAccumulator(model.logger.dir)
    events.Reload()
    tags = events.Tags()
    return model, [tag for tag in [*tags["tensors"], *tags["images"]] if tag.startswith(("memory/", "timeline/"))]


def test_episodes_are_recorded_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    _, tags = learn(corridor(), lambda: make_single("expirespan/CorridorShort-v0"), tmp_path, steps=192, every=128)
    assert tags == [
        "memory/episode/7/128",
        "memory/episode/7/192",
        "timeline/memories",
        "timeline/frames",
    ]


@pytest.mark.parametrize("eval_env", ["CartPole-v1", lambda: gym.make("CartPole-v1"), gym.make("CartPole-v1")])
def test_an_environment_may_be_given_by_id_by_function_or_itself(eval_env: Any, tmp_path: Path) -> None:
    _, tags = learn(make_vec_env("CartPole-v1", 2), eval_env, tmp_path, steps=32)
    assert "memory/episode/7/32" in tags
    assert ("timeline/frames" in tags) == isinstance(eval_env, str)  # an id is made to be drawn


class Failing(Blinker):
    """Ends with an error in its second episode."""

    episodes = 0

    def reset(self, **options: Any) -> Any:
        self.episodes += 1
        if self.episodes == 2:
            raise OSError("no display")
        return super().reset(**options)


def test_an_episode_that_cannot_be_recorded_ends_no_training(tmp_path: Path) -> None:
    blinkers = make_vec_env(Blinker, 2)
    with pytest.warns(UserWarning, match="records nothing more, training goes on: OSError: no display") as warned:
        model, tags = learn(blinkers, Failing(), tmp_path, steps=256)
    assert model.num_timesteps == 256 and len(warned) == 1
    assert tags == ["memory/episode/7/64", "timeline/memories"]


class Far(Blinker):
    """Blinker with numbers around 1,000."""

    observation_space = spaces.Box(0, 2000, (2,), np.float32)

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation + 1000, info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + 1000, *rest


def test_observations_are_normalised_by_the_statistics_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    record = record_episode

    def watched(policy: Any, env: gym.Env, *rest: Any, **options: Any) -> EpisodeTrace:
        seen.append(env.reset(seed=0)[0])
        return record(policy, env, *rest, **options)

    monkeypatch.setattr(recording, "record_episode", watched)
    env = VecNormalize(make_vec_env(Far, 2))
    learn(env, Far, tmp_path, steps=64)
    expected: Any = env.normalize_obs(np.array([1000.0, 1001.0]))
    np.testing.assert_allclose(seen[-1], expected)
    assert (np.abs(seen[-1]) < 3).all()


class Picture(Blinker):
    """Shows a picture, channels first."""

    observation_space = spaces.Box(0, 255, (3, 40, 36), np.uint8)

    def reset(self, **options: Any) -> Any:
        _, info = super().reset(**options)
        return np.full((3, 40, 36), 9, np.uint8), info

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        return np.full((3, 40, 36), 9, np.uint8), *rest


def test_pictures_that_are_observed_are_recorded(tmp_path: Path) -> None:
    assert "timeline/frames" in learn(Picture(), Picture, tmp_path, steps=16)[1]


def test_drawing_that_fails_ends_nothing_and_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoScreen, "calls", 0)
    with pytest.warns(UserWarning, match="is recorded without pictures, drawing it raised RuntimeError: no display"):
        _, tags = learn(NoScreen(), lambda: NoScreen("rgb_array"), tmp_path, steps=64, every=32)
    assert NoScreen.calls == 1
    assert tags == ["memory/episode/7/32", "memory/episode/7/64", "timeline/memories"]


def test_recording_draws_nothing_from_the_generator_of_training(tmp_path: Path) -> None:
    plain = small(corridor(), batch_size=None)
    plain.learn(128)
    recorded, _ = learn(corridor(), "expirespan/CorridorShort-v0", tmp_path, deterministic=False)
    for one, other in zip(plain.policy.parameters(), recorded.policy.parameters(), strict=True):
        assert one.equal(other)


def test_long_episodes_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(recording, "write_episode", lambda writer, trace, *rest: lengths.append(len(trace.actions)))
    learn(Blinker(), Blinker, tmp_path, steps=32, every=16, max_steps=2)
    assert lengths == [2, 2]


def test_a_model_that_logs_nothing_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="RecordEpisodes records nothing: .* give it tensorboard_log=FOLDER"):
        small(Blinker(), batch_size=None).learn(16, callback=RecordEpisodes(Blinker))
