"""What the encoder of each step in a window is given."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import ExpireSpanExtractor, HistoryWrapper, MiniGridExtractor, TokenLineExtractor
from expirespan.envs import InstructionEnv
from gymnasium import spaces
from histories import SMALL, VECTOR, Noise, as_sb3_gives, played
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor


class Spy(BaseFeaturesExtractor):
    """Keeps what it is given."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 1)
        self.space = observation_space

    def forward(self, observations: Any) -> Tensor:
        self.given = observations
        part = observations
        while isinstance(part, dict):
            part = next(iter(part.values()))
        return part.flatten(1)[:, :1]


SPACES = {
    "number": spaces.Box(-1, 1, (), np.float64),
    "matrix": spaces.Box(0, 255, (9, 8), np.uint8),  # SB3 would take a window of them for a picture
    "picture": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 40, 36), np.uint8),
    "small picture": spaces.Box(0, 255, (16, 16, 3), np.uint8),
    "bytes": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=10),
    "multi-discrete": spaces.MultiDiscrete([3, 4], start=[1, -1]),
    "multi-binary": spaces.MultiBinary((2, 3)),
}
SPACES["dictionary"] = spaces.Dict([("z", SPACES["picture"]), ("a", SPACES["discrete"]), ("b", VECTOR)])


def sb3_sees(space: spaces.Space, observation: Any) -> Any:
    """One observation as a policy gives it to an extractor, written out."""
    if isinstance(space, spaces.Dict):
        return {key: sb3_sees(part, observation[key]) for key, part in space.items()}
    if space in (SPACES["picture"], SPACES["small picture"]):
        return observation.transpose(2, 0, 1) / 255
    if space == SPACES["channels first"]:
        return observation / 255
    if isinstance(space, spaces.Discrete):
        return np.eye(5)[observation - 10]
    if isinstance(space, spaces.MultiDiscrete):
        return np.concatenate([np.eye(3)[observation[0] - 1], np.eye(4)[observation[1] + 1]])
    return np.reshape(observation, space.shape or 1)


def assert_same(given: Any, wanted: list[Any]) -> None:
    if isinstance(given, dict):
        assert list(given) == list(wanted[0])
        for key in given:
            assert_same(given[key], [one[key] for one in wanted])
    else:
        torch.testing.assert_close(given, torch.as_tensor(np.stack(wanted), dtype=torch.float32))


class Remembering(gym.Wrapper):
    """Keeps all observations of an episode."""

    def reset(self, **given: Any) -> Any:
        seen, info = self.env.reset(**given)
        self.seen = [seen]
        return seen, info

    def step(self, action: Any) -> Any:
        seen, *rest = self.env.step(action)
        self.seen.append(seen)
        return seen, *rest


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_an_encoder_gets_each_step_as_sb3_would_give_it(space: spaces.Space) -> None:
    inner = Remembering(Noise(space))
    env = HistoryWrapper(inner, length=20)
    windows = played(env)
    assert all(env.observation_space.contains(window) for window in windows)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL, features_extractor_class=Spy)
    extractor(as_sb3_gives(env, windows[-1:]))
    assert isinstance(extractor.encoder, Spy)
    assert_same(extractor.encoder.given, [sb3_sees(space, one) for one in inner.seen])


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_every_space_has_an_encoder(space: spaces.Space) -> None:
    env = HistoryWrapper(Noise(space), length=5, include_actions=True)
    features = ExpireSpanExtractor(env.observation_space, SMALL)(as_sb3_gives(env, played(env)))
    assert features.shape == (12, 16)
    assert features.isfinite().all()


def minigrid() -> gym.Env:
    return ImgObsWrapper(gym.make("MiniGrid-MemoryS7-v0", max_episode_steps=9))


@pytest.mark.parametrize(("inner", "kind"), [(minigrid, MiniGridExtractor), (InstructionEnv, TokenLineExtractor)])
def test_steps_are_embedded_as_memory_ppo_embeds_them(
    inner: Callable[[], gym.Env], kind: type[BaseFeaturesExtractor]
) -> None:
    remembering = Remembering(inner())
    env = HistoryWrapper(remembering, length=200)
    windows = played(env)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL)
    assert isinstance(extractor.encoder, kind)
    features = extractor.embed(extractor.encoder(torch.as_tensor(np.stack(remembering.seen).astype(np.int64))))
    state, resets = extractor.core.initial_state(1), torch.arange(len(windows)).unsqueeze(0) == 0
    wanted = extractor.core(features.unsqueeze(0), state, resets).y[0, -1]
    torch.testing.assert_close(extractor(as_sb3_gives(env, windows[-1:]))[0], wanted)
