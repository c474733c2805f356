"""Observations in units of their running statistics: the numbers, when they change, and what they leave alone."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan import MemoryPPO
from expirespan.agents.encoders import DictExtractor, measuring
from expirespan.agents.numbers_extractor import FARTHEST, MOST_COUNTED, NumbersExtractor
from gymnasium import spaces
from models import SMALL
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

ROWS = np.random.default_rng(0).normal([3.0, -500.0, 0.02], [2.0, 70.0, 0.003], (1000, 3)).astype(np.float32)


def extractor() -> NumbersExtractor:
    return NumbersExtractor(spaces.Box(-np.inf, np.inf, (3,), np.float32))


def test_before_the_first_batch_numbers_stay_as_they_are() -> None:
    rows = torch.from_numpy(ROWS)
    torch.testing.assert_close(extractor()(rows), rows)


def test_mean_and_variance_are_those_of_all_batches_together() -> None:
    made = extractor()
    for begin, end in ((0, 7), (7, 300), (300, 1000)):
        made.observe(torch.from_numpy(ROWS[begin:end]))
    np.testing.assert_allclose(made.mean, ROWS.mean(0), rtol=1e-4)
    np.testing.assert_allclose(made.var, ROWS.var(0), rtol=1e-3)
    seen = made(torch.from_numpy(ROWS))
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(3), atol=1e-2, rtol=0)


def test_the_formula_with_its_clipping() -> None:
    made = NumbersExtractor(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    made.observe(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))  # mean 2 and 5, variance 1 and 0
    seen = made(torch.tensor([[2.5, 5.0], [-90.0, 6.0]]))
    torch.testing.assert_close(seen, torch.tensor([[0.5, 0.0], [-FARTHEST, FARTHEST]]))


def test_old_observations_are_outweighed_in_the_end() -> None:
    made = extractor()
    made.count.fill_(MOST_COUNTED)
    made.observe(torch.from_numpy(ROWS))
    assert made.count == MOST_COUNTED
    torch.testing.assert_close(
        made.mean, torch.from_numpy(ROWS.mean(0)) * 1000 / (MOST_COUNTED + 1000), rtol=1e-3, atol=0
    )


def test_class_numbers_have_no_statistics_and_the_numbers_of_a_dictionary_have() -> None:
    space = spaces.Dict({"class": spaces.Discrete(3), "speed": spaces.Box(-9, 9, (2,), np.float32)})
    made = DictExtractor(space, {"class": "numbers", "speed": "numbers"})
    speeds = torch.tensor([[1.0, 5.0], [3.0, 9.0]])
    classes = torch.eye(3)[[2, 0]]
    ((name, part),) = measuring(made)
    assert name == "speed"
    part.observe(speeds)
    seen = made({"class": classes, "speed": speeds})
    torch.testing.assert_close(seen, torch.cat([classes, torch.tensor([[-1.0, -1.0], [1.0, 1.0]])], 1))


class Pictures(gym.Env):
    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Discrete(2)


def ppo(normalizes: bool = False, **settings: Any) -> MemoryPPO:
    env = make_vec_env(lambda: gym.make("Pendulum-v1"), 3, seed=0)
    env = VecNormalize(env) if normalizes else env
    return MemoryPPO("MlpPolicy", env, n_steps=11, n_epochs=2, seed=0, policy_kwargs=SMALL, **settings)


def test_statistics_change_after_the_update_that_learned_with_the_old_ones() -> None:
    model = ppo()
    statistics, counted = model.policy.features_extractor, []
    model.learn(99, callback=lambda names, _: counted.append(float(statistics.count)) or True)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a tensor
    assert counted == [0.0] * 11 + [33.0] * 11 + [66.0] * 11
    assert statistics.count == 99
    rows = model.rollout_buffer.flat_observations()
    assert rows.shape == (33, 3)


@pytest.mark.parametrize("settings", [{"normalize_observations": False}, {"normalizes": True}])
def test_they_stay_as_they_are_where_nobody_or_someone_else_normalises(settings: dict[str, Any]) -> None:
    model = ppo(**settings)
    model.learn(33)
    assert model.policy.features_extractor.count == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_compiled_extractors_are_found_and_pictures_have_no_statistics() -> None:
    model = ppo()
    plain = model.policy.features_extractor
    model.policy.features_extractor = model.policy.pi_features_extractor = torch.compile(plain)  # pyright: ignore[reportAttributeAccessIssue]  # as SB3's users do
    model.policy.observe(torch.from_numpy(ROWS))
    assert plain.get_buffer("count") == len(ROWS)
    pictures = MemoryPPO("CnnPolicy", Pictures(), n_steps=11, policy_kwargs=SMALL)
    assert not pictures.policy.measuring()


def test_weights_from_before_there_were_statistics_read_numbers_as_they_are() -> None:
    made = extractor()
    made.observe(torch.from_numpy(ROWS))
    made.load_state_dict({})
    torch.testing.assert_close(made(torch.from_numpy(ROWS)), torch.from_numpy(ROWS), rtol=0, atol=0)


def test_a_critic_with_an_extractor_of_its_own_has_the_same_statistics() -> None:
    env = make_vec_env(lambda: gym.make("Pendulum-v1"), 3, seed=0)
    kwargs = SMALL | {"share_features_extractor": False}
    model = MemoryPPO("MlpPolicy", env, n_steps=11, seed=0, policy_kwargs=kwargs).learn(33)
    actor, critic = model.policy.pi_features_extractor, model.policy.vf_features_extractor
    assert actor is not critic
    for name, buffer in actor.named_buffers():
        torch.testing.assert_close(buffer, critic.get_buffer(name))
    assert critic.get_buffer("count") == 33
