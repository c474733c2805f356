"""What SB3's and sb3-contrib's own tests ask of training on-policy, asked of MemoryPPO and MemoryA2C."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.agents.policy import MemoryActorCriticPolicy
from gymnasium import spaces
from models import SMALL, Blinker
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)
from torch import nn

ALGORITHMS = [MemoryPPO, MemoryA2C]


def made(
    algorithm: Any, env: Any, policy: str = "MlpPolicy", more: dict[str, Any] | None = None, **settings: Any
) -> Any:
    """A tiny agent with the given settings, and `more` policy_kwargs."""
    return algorithm(
        policy, env, **({"n_steps": 8, "seed": 1, "device": "cpu"} | settings), policy_kwargs=SMALL | (more or {})
    )


def weights(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sb3s_usual_environments_are_trained_and_evaluated(algorithm: Any, env: str) -> None:
    model = made(algorithm, make_vec_env(env, 2, seed=0))
    before = weights(model)
    assert model.learn(30).num_timesteps == 32  # whole rollouts, as in SB3
    assert not torch.equal(weights(model), before) and weights(model).isfinite().all()
    mean, deviation = evaluate_policy(model, gym.make(env, max_episode_steps=20), 2, warn=False)
    assert np.isfinite([mean, deviation]).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_rollout_of_one_step_is_learned_from(algorithm: Any, rows: int) -> None:
    model = made(algorithm, make_vec_env("CartPole-v1", rows), n_steps=1)
    model.learn(6)
    assert weights(model).isfinite().all() and model._n_updates >= 2


@pytest.mark.parametrize("limit", [0.2, lambda left: 0.1 * left + 0.1])
def test_values_can_be_clipped(limit: Any) -> None:
    assert made(MemoryPPO, "CartPole-v1", clip_range_vf=limit).learn(8).clip_range_vf(1.0) == 0.2
    with pytest.raises(ValueError, match=r"`clip_range_vf` to be positive, actual: -0\.2"):
        made(MemoryPPO, "CartPole-v1", clip_range_vf=-0.2)


class ConstantValue(MemoryActorCriticPolicy):
    """Values everything alike."""

    constant = 0.0

    def _heads(self, *arguments: Any, **named: Any) -> Any:
        distribution, values = super()._heads(*arguments, **named)
        return distribution, torch.full_like(values, self.constant)


class LastPays(Blinker):
    """Terminates after 4 steps, of which the last is paid."""

    def step(self, action: Any) -> Any:
        obs, *_ = super().step(action)
        return obs, float(self.steps == 4), self.steps == 4, False, {}


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 1.0), (1.0, 0.8), (0.9, 0.8)])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_advantages_and_returns_are_those_of_gae(algorithm: Any, value: float, gamma: float, gae_lambda: float) -> None:
    seen: list[np.ndarray] = []

    class Watch(BaseCallback):
        def _on_rollout_end(self) -> None:
            buffer: Any = self.locals["rollout_buffer"]
            seen.extend([buffer.advantages[:, 0].numpy(), buffer.returns[:, 0].numpy()])

        def _on_step(self) -> bool:
            return True

    model = algorithm(ConstantValue, LastPays(), n_steps=8, gamma=gamma, gae_lambda=gae_lambda, normalize_reward=False)
    model.policy.constant = value
    model.learn(8, callback=Watch())
    delta, decay = gamma * value - value, gamma * gae_lambda
    episode = [1.0 - value]
    for _ in range(3):
        episode.insert(0, delta + decay * episode[0])
    np.testing.assert_allclose(seen[0], episode * 2, atol=1e-6)
    np.testing.assert_allclose(seen[1], np.add(episode * 2, value), atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        (MemoryPPO, lambda: IdentityEnv(3, ep_length=10)),
        (MemoryA2C, lambda: IdentityEnv(3, ep_length=10)),
        (MemoryPPO, lambda: IdentityEnvMultiDiscrete(3, ep_length=10)),
        (MemoryPPO, lambda: IdentityEnvMultiBinary(2, ep_length=10)),
        (MemoryPPO, lambda: IdentityEnvBox(eps=0.5, ep_length=10)),
    ],
)
def test_the_action_that_the_observation_shows_is_learned(algorithm: Any, env: Callable[[], gym.Env]) -> None:
    rows = make_vec_env(env, 16, seed=1)
    one_layer = {"memory": SMALL["memory"] | {"layers": 1}}
    model = made(algorithm, rows, more=one_layer, n_steps=10, gamma=0.4, learning_rate=1e-2)
    model.target_kl = None
    assert np.greater(evaluate_policy(model.learn(2_500), rows, 16)[0], 9)  # of 10


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_agent(algorithm: Any, env: str) -> None:
    trained = [made(algorithm, make_vec_env(env, 2), seed=seed).learn(32) for seed in (5, 5, 6)]
    assert torch.equal(weights(trained[0]), weights(trained[1]))
    assert not torch.equal(weights(trained[0]), weights(trained[2]))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("channel_first", "side"), [(False, 40), (True, 40), (False, 12)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pictures_are_turned_where_their_channels_are_last(
    algorithm: Any, channel_first: bool, side: int, share: bool, tmp_path: Any
) -> None:
    env = FakeImageEnv(screen_height=side, screen_width=side, channel_first=channel_first)
    more = {"features_extractor_kwargs": {"features_dim": 8}, "share_features_extractor": share}
    model = made(algorithm, env, "CnnPolicy", more).learn(8)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) is not channel_first
    obs = env.reset()[0]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert model.predict(obs, deterministic=True)[0] == loaded.predict(obs, deterministic=True)[0]


def test_pictures_that_vecnormalize_made_real_numbers_go_through_a_cnn_on_request() -> None:
    env = FakeImageEnv(screen_height=36, screen_width=36, channel_first=True)
    more = {
        "features_extractor_class": NatureCNN,
        "features_extractor_kwargs": {"features_dim": 8, "normalized_image": True},
        "normalize_images": False,
    }
    model = made(MemoryPPO, VecNormalize(DummyVecEnv([lambda: env])), "CnnPolicy", more).learn(8)
    assert weights(model).isfinite().all()


class Shown(Blinker):
    """Shows random elements of a space."""

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space = space

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), *super().step(action)[1:]


@pytest.mark.parametrize(
    ("space", "extractor", "seen_shape"),
    [
        (spaces.Box(0, 1, (3, 36, 37), np.float32), "NatureCNN", (3, 36, 37)),
        (spaces.Box(0, 1, (3, 11, 13), np.float32), "SmallPictureExtractor", (3, 11, 13)),
        (spaces.Box(0, 200, (3, 11, 13), np.uint8), "SmallPictureExtractor", (3, 11, 13)),
        (spaces.Box(0, 255, (31, 29, 23), np.uint8), "SmallPictureExtractor", (23, 31, 29)),
    ],
)
def test_with_cnnpolicy_three_dimensions_are_a_picture(
    space: spaces.Box, extractor: str, seen_shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = made(MemoryPPO, Shown(space), "CnnPolicy", {"features_extractor_kwargs": {"features_dim": 8}}).learn(8)
    assert type(model.policy.features_extractor).__name__ == extractor and model.policy.features_dim == 8
    assert model.observation_space.shape == seen_shape
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=Shown(space), device="cpu").learn(8)
    assert loaded.policy.observations == "picture"
    assert made(MemoryPPO, Shown(space), "MlpPolicy").policy.observations == "numbers"


def test_with_cnnpolicy_normalised_pictures_are_pictures() -> None:
    env = VecNormalize(DummyVecEnv([lambda: FakeImageEnv(screen_height=36, screen_width=36, channel_first=True)]))
    model = made(MemoryPPO, env, "CnnPolicy").learn(8)
    assert type(model.policy.features_extractor) is NatureCNN


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 255, (36, 36), np.uint8), spaces.Box(0, 1, (36, 36, 3)), spaces.Box(-1, 1, (3,))]
)
def test_with_cnnpolicy_what_cannot_be_a_picture_is_refused(space: spaces.Box) -> None:
    with pytest.raises(ValueError, match=r"Expect pictures for `CnnPolicy`: .* actual: Box.*; VecTransposeImage, "):
        made(MemoryPPO, Shown(space), "CnnPolicy")


@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("wrap", ["plain", "stacked", "normalised"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dictionaries_of_pictures_and_numbers(algorithm: Any, wrap: str, channel_last: bool) -> None:
    env: Any = DummyVecEnv([lambda: SimpleMultiObsEnv(channel_last=channel_last)])
    if wrap == "stacked":
        order: Any = {"vec": None, "img": "last" if channel_last else "first"}
        env = VecFrameStack(env, 3, channels_order=order)
    if wrap == "normalised":
        env = VecNormalize(env, norm_obs_keys=["vec"])
    model = made(algorithm, env, "MultiInputPolicy", {"features_extractor_kwargs": {"cnn_output_dim": 8}}).learn(8)
    assert model.policy.features_dim < 40
    assert model.predict(env.reset())[0].shape == (1,)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_goal_environment_and_its_dictionary(algorithm: Any) -> None:
    model = made(algorithm, BitFlippingEnv(3), "MultiInputPolicy").learn(16)
    assert np.isfinite(evaluate_policy(model, model.get_env(), 2)[0])


class Vector(Blinker):
    observation_space = spaces.Box(-1, 1, (3,))

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return np.full(3, 0.5, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.full(3, self.steps / 4, np.float32), *super().step(action)[1:]


class Named(gym.ObservationWrapper):
    """The same as a dictionary."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"vec": env.observation_space})

    def observation(self, observation: Any) -> Any:
        return {"vec": observation}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_dictionary_of_one_vector_is_learned_from_as_the_vector(algorithm: Any) -> None:
    flat, named = made(algorithm, Vector()).learn(24), made(algorithm, Named(Vector()), "MultiInputPolicy").learn(24)
    assert torch.equal(weights(flat), weights(named))


@pytest.mark.parametrize(
    ("more", "layers"),
    [
        ({"net_arch": []}, 0),
        ({"net_arch": [4]}, 2),
        ({"net_arch": [4, 4], "activation_fn": nn.ReLU}, 4),
        ({"net_arch": {"pi": [8, 4], "vf": [5]}}, 3),
        ({"net_arch": {"pi": [8]}, "ortho_init": False}, 1),
        ({"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}, 0),
        ({"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}, 0),
        ({"log_std_init": -1.0, "use_sde": False, "squash_output": False}, 0),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_are_shaped_by_sb3s_arguments(algorithm: Any, more: dict[str, Any], layers: int) -> None:
    model = made(algorithm, "Pendulum-v1", more=more).learn(8)
    heads = [m for m in model.policy.mlp_extractor.modules() if isinstance(m, nn.Linear)]
    assert len(heads) == layers and weights(model).isfinite().all()
    assert type(model.policy.optimizer) is more.get("optimizer_class", torch.optim.Adam)
    if "log_std_init" in more:
        assert model.policy.log_std.item() == pytest.approx(-1.0, abs=0.1)


class Fickle(BaseFeaturesExtractor):
    """Batch normalisation and dropout, which act otherwise in training."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[0])
        self.norm, self.dropout = nn.BatchNorm1d(observation_space.shape[0]), nn.Dropout(0.5)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(observations))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_batch_normalisation_and_dropout_rest_while_acting(algorithm: Any) -> None:
    model = made(algorithm, "Pendulum-v1", more={"features_extractor_class": Fickle})
    extractor = model.policy.features_extractor
    mean = extractor.norm.running_mean.clone()
    _, callback = model._setup_learn(8)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)
    assert torch.equal(extractor.norm.running_mean, mean)
    model.learn(8)
    assert not torch.equal(extractor.norm.running_mean, mean)
    mean, obs = extractor.norm.running_mean.clone(), model.env.reset()
    first, *others = (model.predict(obs, deterministic=True)[0] for _ in range(4))
    assert all(np.array_equal(first, other) for other in others) and torch.equal(extractor.norm.running_mean, mean)
    assert not model.policy.training
