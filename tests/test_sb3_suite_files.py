"""What SB3's and sb3-contrib's own tests ask of files, parameters and environments that change, asked here."""

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import MemoryA2C, MemoryActorCriticPolicy, MemoryPPO
from expirespan.agents.arguments import check_policy
from gymnasium import spaces
from models import SMALL, Blinker, span_config
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

ALGORITHMS = [MemoryPPO, MemoryA2C]
ENVS: dict[str, Any] = {
    "numbers": lambda: IdentityEnvBox(-10, 10),
    "pictures": lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=2, discrete=False),
}


def made(algorithm: Any, env: Any, more: dict[str, Any] | None = None, **settings: Any) -> Any:
    kwargs = SMALL | (more or {})
    return algorithm(
        "MemoryPolicy", env, **({"n_steps": 8, "seed": 1, "device": "cpu"} | settings), policy_kwargs=kwargs
    )


def randomised(policy: Any) -> None:
    """Weights that initialisation would not give."""
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def seen(env: Any, rows: int = 7) -> np.ndarray:
    env.observation_space.seed(3)
    return np.stack([env.observation_space.sample() for _ in range(rows)])


def same_weights(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True))


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_loaded_acts_the_same_and_learns_on(algorithm: Any, device: str, kind: str, tmp_path: Path) -> None:
    env = ENVS[kind]()
    model = made(algorithm, env).learn(8)
    randomised(model.policy)
    model.save(tmp_path / "model.zip")
    loaded = algorithm.load(tmp_path / "model", env=DummyVecEnv([lambda: env]), device=device)
    assert same_weights(model, loaded)
    assert loaded.device == loaded.policy.device == next(loaded.policy.parameters()).device
    actions, other = (agent.predict(seen(env), deterministic=True)[0] for agent in (model, loaded))
    np.testing.assert_allclose(actions, other, rtol=1e-4)
    assert loaded.learn(8, reset_num_timesteps=False).num_timesteps == 16


@pytest.mark.parametrize("kind", ENVS)
@pytest.mark.parametrize("share", [True, False])
def test_a_policy_alone_is_stored_as_sb3_stores_it(kind: str, share: bool, tmp_path: Path) -> None:
    env = ENVS[kind]()
    policy = made(MemoryPPO, env, {"share_features_extractor": share, "net_arch": [8]}).policy
    randomised(policy)
    policy.save(str(tmp_path / "policy.pt"))
    loaded = type(policy).load(str(tmp_path / "policy.pt"), device="cpu")
    assert loaded.core_config == policy.core_config and loaded.observations == policy.observations
    actions, other = (one.predict(seen(env), deterministic=True)[0] for one in (policy, loaded))
    np.testing.assert_array_equal(actions, other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_are_set_as_a_whole_or_on_request_in_part(algorithm: Any) -> None:
    model = made(algorithm, Blinker())
    stored = deepcopy(model.get_parameters())
    assert set(stored) == {"policy", "policy.optimizer"}
    for exact in (True, False):
        with pytest.raises(ValueError, match="Key nothing is an invalid object name"):
            model.set_parameters(stored | {"nothing": {}}, exact_match=exact)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": stored["policy"]})
    *some, last = stored["policy"]
    changed = {name: torch.full_like(stored["policy"][name], 3.0) for name in some}
    with pytest.raises(RuntimeError, match=f"Missing key.*{last}"):
        model.set_parameters({"policy": changed, "policy.optimizer": stored["policy.optimizer"]})
    model.set_parameters({"policy": changed}, exact_match=False)
    now = model.get_parameters()["policy"]
    assert torch.equal(now[last], stored["policy"][last]) and all((now[name] == 3.0).all() for name in some)


@pytest.mark.parametrize("other", [Blinker, lambda: DummyVecEnv([Blinker]), lambda: make_vec_env(Blinker, 2)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_environment_is_trained_in(algorithm: Any, other: Any) -> None:
    model = made(algorithm, make_vec_env(Blinker, 2)).learn(16)
    model.set_env(other())
    assert model._last_obs is None
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps >= 32 and model.n_envs == model.get_env().num_envs


def test_training_goes_on_in_the_same_episode_on_request() -> None:
    model = made(MemoryPPO, Blinker()).learn(8)
    last, memory = model._last_obs, model._memory
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is last and model._memory is memory
    model.set_env(model.get_env())
    assert model._last_obs is None and model._memory is None


def test_arguments_are_replaced_by_name(tmp_path: Path) -> None:
    made(MemoryPPO, Blinker(), verbose=0).save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=Blinker(), verbose=1, gamma=0.5, device="cpu")
    assert (loaded.verbose, loaded.gamma, loaded.seed) == (1, 0.5, 1)
    shape = SMALL["memory"] | {"capacity": 3}
    forgetful = MemoryPPO.load(tmp_path / "model", policy_kwargs={"memory": shape}, device="cpu")
    assert span_config(forgetful).capacity == 3
    same = MemoryPPO.load(tmp_path / "model", policy_kwargs={"activation_fn": torch.nn.ReLU}, device="cpu")
    assert span_config(same).width == 16  # what is not named stays


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (
            lambda file: MemoryPPO.load(file).learn(8),
            ValueError,
            "Expect an environment to learn in, actual: none; give",
        ),
        (lambda file: MemoryA2C.load(file), ValueError, "Expect a checkpoint of MemoryA2C, actual: MemoryPPO"),
        (
            lambda file: MemoryPPO.load(file, policy_kwargs={"net_arch": [7]}),
            ValueError,
            "Expect `policy_kwargs` of the networks that the checkpoint holds, actual: Error",
        ),
        (
            lambda file: MemoryPPO.load(file, polcy_kwargs={}),
            TypeError,
            "actual: `polcy_kwargs`; did you mean `policy_",
        ),
        (lambda file: MemoryPPO.load(file.with_name("no")), FileNotFoundError, "There is no checkpoint at .*no"),
        (lambda file: MemoryPPO.load(file, env=IdentityEnvBox()), ValueError, "Observation spaces do not match"),
        (lambda file: MemoryPPO.load(io.BytesIO(b"PK")), ValueError, "the stream is not a readable checkpoint"),
        (
            lambda file: MemoryPPO.load(file).save(file, exclude=["verbose"]),
            ValueError,
            r"Expect `exclude` and `include` to be None, actual: \['verbose'\] and None",
        ),
    ],
)
def test_what_a_file_cannot_do_is_said(act: Any, kind: type, message: str, tmp_path: Path) -> None:
    made(MemoryPPO, Blinker()).save(tmp_path / "model.zip")
    with pytest.raises(kind, match=message):
        act(tmp_path / "model.zip")


@pytest.mark.parametrize("target", ["a string", "a path", "an open file", "a deep path"])
def test_files_are_written_wherever_sb3_writes_them(target: str, tmp_path: Path) -> None:
    model = made(MemoryPPO, Blinker())
    path = tmp_path / ("new/folders/model.zip" if target == "a deep path" else "model.zip")
    if target == "an open file":
        with path.open("wb") as file:
            model.save(file)
        with path.open("rb") as file:
            loaded = MemoryPPO.load(file, device="cpu")
    else:
        model.save(str(path) if target == "a string" else path)
        loaded = MemoryPPO.load(path, device="cpu")
    assert same_weights(model, loaded)


def test_the_versions_in_use_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(MemoryPPO, Blinker()).save(tmp_path / "model")
    MemoryPPO.load(tmp_path / "model", print_system_info=True, device="cpu")
    assert "Stable-Baselines3" in capsys.readouterr().out


class OurBox(spaces.Box): ...


class OurDiscrete(spaces.Discrete): ...


class Subclassed(Blinker):
    observation_space = OurBox(0, 10, (2,), np.float32)
    action_space = OurDiscrete(3)


def test_spaces_may_be_subclasses(tmp_path: Path) -> None:
    model = made(MemoryPPO, Subclassed()).learn(8)
    assert model.predict(seen(Subclassed()))[0].shape == (7,)
    model.save(tmp_path / "model")
    MemoryPPO.load(tmp_path / "model", env=Subclassed(), device="cpu").learn(8)


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        (
            {"lstm_hidden_size": 4},
            ValueError,
            r"`lstm_hidden_size` not to be given: the memory is no LSTM; .*'width'",
        ),
        ({"n_lstm_layers": 1}, ValueError, r"`n_lstm_layers` not to be given: .*'layers'"),
        ({"lstm_kwargs": {"dropout": 0.5}}, ValueError, r"`lstm_kwargs` not to be given: .*'dropout'"),
        ({"shared_lstm": True}, ValueError, "`shared_lstm` not to be given: actor and critic always share one memory"),
        ({"enable_critic_lstm": False}, ValueError, "`enable_critic_lstm` not to be given: actor and critic always"),
        ({"use_sde": True}, ValueError, "`use_sde` not to be given: state-dependent exploration is not supported"),
        ({"squash_output": True}, ValueError, "`squash_output` not to be given: only state-dependent exploration"),
        ({"net_arch": [12, {"pi": [8]}]}, ValueError, "`net_arch` to be a list of widths or .*, actual: .12, "),
        (
            {"memory": {"widht": 8}},
            TypeError,
            "arguments of `memory` for expire-span, actual: `widht`; did you mean `width`",
        ),
        ({"log_std_int": 0}, TypeError, "arguments of MemoryActorCriticPolicy, actual: `log_std_int`; did you mean"),
        (
            {"features_extractor_kwargs": {"features_dim": 32}},
            TypeError,
            r"`features_extractor_kwargs` to be those of NumbersExtractor \(none\), actual: `features_dim`",
        ),
    ],
)
def test_policy_kwargs_that_cannot_be_had_are_named(more: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        made(MemoryPPO, Blinker(), more)


@pytest.mark.parametrize(
    ("policy", "env", "kind", "message"),
    [
        ("MlpLstmPolicy", Blinker, ValueError, "actual: 'MlpLstmPolicy'; did you mean 'MlpPolicy'"),
        ("MlpPolicy", lambda: FakeDict(), ValueError, "You must use `MultiInputPolicy` when working with dict"),
        ("MemoryPolicy", lambda: None, TypeError, "`env` to be a Gymnasium environment or its id, .* actual: None"),
    ],
)
def test_policies_and_environments_that_cannot_be_had_are_named(
    policy: Any, env: Any, kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        MemoryPPO(policy, env(), policy_kwargs=SMALL)


def test_a_policy_of_sb3_is_refused() -> None:
    with pytest.raises(ValueError, match="a name or a subclass of MemoryActorCriticPolicy, actual: <class"):
        check_policy(ActorCriticPolicy, [], MemoryActorCriticPolicy, {})  # what MemoryPPO calls first


class FakeDict(Blinker):
    observation_space: spaces.Space = spaces.Dict({"a": spaces.Box(0, 1, (2,))})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_single_observations_and_batches_are_told_apart(algorithm: Any, env: str) -> None:
    model, one, several = made(algorithm, env), gym.make(env), make_vec_env(env, 3)
    action, memory = model.predict(one.reset(seed=1)[0])
    assert one.action_space.contains(action if action.shape else action[()]) and memory.time.tolist() == [1]
    actions, memory = model.predict(several.reset())
    assert actions.shape == (3, *(one.action_space.shape or ())) and memory.time.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(2, np.float32))
