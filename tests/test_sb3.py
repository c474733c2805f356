"""MemoryPPO and MemoryA2C among Stable-Baselines3's tools: arguments, attributes, callbacks, files, environments."""

import inspect
import io
import pickle
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import expirespan
import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan import processes
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.agents.policy import SequenceEvaluation
from expirespan.memory import CoreOutput
from expirespan.memory.expire_span.budget import SpanController
from faulty_envs import Plain
from gymnasium import spaces
from gymnasium.envs import registration
from models import SMALL, Blinker, corridor, rows_of, small, span_core, weights
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize
from torch import nn


class Pair(gym.Env):
    """Two numbers as a dictionary."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (1,)), "b": spaces.Box(-1, 1, (1,))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 4, False, {}


def test_the_package_names_its_algorithms_and_its_version() -> None:
    assert expirespan.MemoryPPO is MemoryPPO and expirespan.MemoryA2C is MemoryA2C
    assert expirespan.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'MemoryDQN'"):
        expirespan.MemoryDQN  # noqa: B018


@pytest.mark.parametrize(
    ("policy", "env"), [("MlpPolicy", Blinker), ("CnnPolicy", FakeImageEnv), ("MultiInputPolicy", Pair)]
)
@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
def test_sb3s_names_of_policies(algorithm: Any, policy: str, env: Any) -> None:
    algorithm(policy, env(), n_steps=8, policy_kwargs=SMALL, device="cpu").learn(16)


def test_schedules_of_step_size_and_clip_range_are_followed(tmp_path: Path) -> None:
    model = small(learning_rate=lambda left: 1e-3 * left**2, clip_range=LinearSchedule(0.2, 0.1, 1.0), anneal=True)
    logged: list[tuple[float, float]] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            known = self.logger.name_to_value
            if "train/learning_rate" in known:
                logged.append((known["train/learning_rate"], known["train/clip_range"]))

        def _on_step(self) -> bool:
            return True

    model.learn(16 * 4 * 4, callback=Watch(), log_interval=100)
    rates, ranges = zip(*logged, strict=True)
    assert rates == pytest.approx([1e-3, 1e-3 * 0.75**2, 1e-3 * 0.5**2]) and ranges == pytest.approx([0.2, 0.175, 0.15])
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="`learning_rate` to be given: a checkpoint can't hold learning_rate"):
        MemoryPPO.load(tmp_path / "model", env=corridor(), device="cpu")
    player = MemoryPPO.load(tmp_path / "model", device="cpu")  # to act, no step size is needed
    assert player.clip_range(0.5) == pytest.approx(0.15)
    player.save(tmp_path / "player")
    with pytest.raises(ValueError, match="`learning_rate` to be given"):  # the value in its place is not the function
        MemoryPPO.load(tmp_path / "player", env=corridor(), device="cpu")
    player.set_env(corridor())
    with pytest.warns(UserWarning, match="could not hold the functions given as learning_rate: training goes on with"):
        player.learn(16)
    again = MemoryPPO.load(tmp_path / "model", env=corridor(), device="cpu", learning_rate=1e-4)
    assert again.learning_rate == 1e-4


@pytest.mark.parametrize(("anneal", "last"), [(True, 2.5e-4), (False, 1e-3)])
def test_a_constant_schedule_of_step_sizes_is_a_number(anneal: bool, last: float) -> None:
    model = small(learning_rate=ConstantSchedule(1e-3), anneal=anneal)  # what RL Zoo makes of a number
    model.learn(16 * 4 * 4)
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(last)
    assert model.arguments()["learning_rate"] == 1e-3


@pytest.mark.parametrize("name", ["learning_rate", "clip_range", "clip_range_vf"])
def test_a_schedule_that_falls_below_0_ends_training(name: str) -> None:
    settings: dict[str, Any] = {name: lambda left: left - 0.6}
    with pytest.raises(ValueError, match=f"Expect `{name}` to be at least 0, actual: -0"):
        small(**settings).learn(16 * 4 * 4)


@pytest.mark.parametrize(("ours", "theirs"), [(MemoryPPO, PPO), (MemoryA2C, A2C)])
def test_positional_arguments_are_those_of_sb3(ours: type, theirs: type) -> None:
    """Up to max_grad_norm; what follows must be named."""
    names = [name for name, one in inspect.signature(ours).parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert names[-1] == "max_grad_norm"
    assert names == list(inspect.signature(theirs).parameters)[: len(names)]


def test_settings_are_attributes_that_training_reads() -> None:
    model = small(normalize_advantage=False)
    assert (model.n_epochs, model.target_kl, model.ent_coef, model.vf_coef) == (4, 0.03, 0.001, 0.5)
    assert model.clip_range(1.0) == 0.2 and model.max_grad_norm == 0.5 and model.normalize_advantage is False
    model.n_epochs, model.target_kl, model.clip_range = 2, None, 0.3
    model.learn(16 * 4)
    steps = {int(slot["step"]) for slot in model.policy.optimizer.state.values()}
    assert steps == {2 * 2} and model.logger.name_to_value["train/clip_range"] == 0.3
    assert model.config.n_epochs == 2 and model.arguments()["clip_range"] == 0.3


@pytest.mark.parametrize(("name", "sign"), [("ent_coef", -1.0), ("vf_coef", 1.0)])
def test_a_weight_changed_while_training_changes_the_loss(name: str, sign: float) -> None:
    model = small()
    policy_loss, value_loss, entropy = torch.tensor([3.0, 5.0, 7.0]).unbind()
    core = CoreOutput(y=torch.zeros(1, 1, 16), losses={"penalty": torch.tensor(11.0)})
    now = SequenceEvaluation(values=torch.zeros(1, 1), log_prob=torch.zeros(1, 1), entropy=entropy, core=core)
    setattr(model, name, 0.0)
    without = model._loss(policy_loss, value_loss, now)
    setattr(model, name, 2.0)
    part = {"ent_coef": entropy, "vf_coef": value_loss}[name]
    torch.testing.assert_close(model._loss(policy_loss, value_loss, now) - without, sign * 2 * part)


def test_the_largest_seed_has_a_next_one_in_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monkeypatch.setattr(processes, "rank", lambda: 1)
    model.set_random_seed(2**32 - 1)
    assert np.random.get_state()[1][0] == model.n_envs - 1  # pyright: ignore[reportIndexIssue, reportArgumentType]  # a tuple


@pytest.mark.parametrize(("reward", "normalized", "divisor"), [(0.5, True, None), (1e-4, True, 0.1), (0.5, False, 1.0)])
def test_the_value_loss_is_in_units_of_the_returns(reward: float, normalized: bool, divisor: float | None) -> None:
    model = small(normalize_value_loss=normalized)
    model.learn(16 * 4)
    buffer = model.rollout_buffer
    buffer.returns = reward * torch.arange(buffer.returns.numel(), dtype=torch.float32).reshape(buffer.returns.shape)
    model._begin_update()
    assert model._value_unit == pytest.approx(divisor or buffer.returns.std(correction=0).item())


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"use_sde": True}, ValueError, "`use_sde` not to be given: state-dependent exploration"),
        ({"rollout_buffer_class": dict}, ValueError, "`rollout_buffer_class` not to be given: rollouts are kept"),
        ({"n_step": 5}, TypeError, "arguments of MemoryPPO, actual: `n_step`; did you mean `n_steps`"),
        ({"use_rms_prop": True}, ValueError, r"`use_rms_prop` not to be given: give policy_kwargs="),
    ],
)
def test_arguments_that_cannot_be_had_are_named(arguments: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        small(**arguments)
    small(use_sde=False, sde_sample_freq=-1, rollout_buffer_class=None, rollout_buffer_kwargs=None)


def test_near_misses_of_a_policys_name_get_a_hint() -> None:
    with pytest.raises(ValueError, match="actual: 'MemoryPolicie'; did you mean 'MemoryPolicy'"):
        MemoryPPO("MemoryPolicie", corridor())


def test_runs_in_tensorboard_are_named_like_the_algorithm(tmp_path: Path) -> None:
    for _ in range(2):
        small(tensorboard_log=str(tmp_path)).learn(16)
    small(tensorboard_log=str(tmp_path)).learn(16, tb_log_name="mine")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["MemoryPPO_1", "MemoryPPO_2", "mine_1"]


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_a_progress_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    small().learn(16, progress_bar=True)
    assert "64/16" in capsys.readouterr().out


def test_sb3s_callbacks_write_files_where_their_users_look(tmp_path: Path) -> None:
    env = make_vec_env("CartPole-v1", 2)
    model = small(env, n_steps=8, batch_size=None)
    judge = EvalCallback(env, n_eval_episodes=1, eval_freq=8, best_model_save_path=str(tmp_path), verbose=0)
    model.learn(32, callback=[judge, CheckpointCallback(8, str(tmp_path))])
    for path in (tmp_path / "best_model.zip", tmp_path / "rl_model_16_steps.zip"):
        assert zipfile.is_zipfile(path)
        MemoryPPO.load(path, env=env, device="cpu")
        MemoryPPO.load(path.with_suffix(""), device="cpu")


@pytest.mark.parametrize(
    ("saved", "written", "loaded"),
    [
        ("x", "x.zip", ["x", "x.zip"]),
        ("x.zip", "x.zip", ["x", "x.zip"]),
        ("x.safetensors", "x.safetensors", ["x", "x.safetensors", "x.zip"]),
        ("x-0.5", "x-0.5", ["x-0.5"]),
    ],
)
def test_names_of_files(saved: str, written: str, loaded: list[str], tmp_path: Path) -> None:
    model = small()
    model.save(str(tmp_path / saved))
    assert [path.name for path in tmp_path.iterdir()] == [written]
    for name in loaded:
        assert MemoryPPO.load(tmp_path / name, device="cpu").num_timesteps == 0


def test_streams_and_parameters() -> None:
    model, other = small(), small(seed=4)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    loaded = MemoryPPO.load(stream, device="cpu")
    stream.seek(0)
    other.set_parameters(stream)
    another = small(seed=5)
    another.set_parameters(model.get_parameters())
    for same in (loaded, other, another):
        assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(same), strict=True))


def test_files_of_others_are_recognised(tmp_path: Path) -> None:
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "sb3")
    with pytest.raises(ValueError, match=r"sb3\.zip is a model of one of Stable-Baselines3's own algorithms"):
        MemoryPPO.load(tmp_path / "sb3")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match=r"other\.zip is a ZIP archive, but not a checkpoint"):
        MemoryPPO.load(tmp_path / "other.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"a run folder with checkpoint\.safetensors, actual: the folder"):
        MemoryPPO.load(tmp_path / "empty")
    small().save(tmp_path / "run" / "checkpoint.safetensors")
    MemoryPPO.load(tmp_path / "run", device="cpu")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # in torch.compile itself
def test_a_compiled_policy_can_be_stored(tmp_path: Path) -> None:
    model = small()
    whole: Any = model  # torch.compile is typed as returning a function
    model.policy.features_extractor = torch.compile(whole.policy.features_extractor)  # pyright: ignore[reportAttributeAccessIssue]  # a module
    whole.policy = torch.compile(whole.policy)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(loaded), strict=True))
    model.set_parameters(tmp_path / "model")


def test_a_file_holds_classes_of_torch_and_sb3(tmp_path: Path) -> None:
    kwargs = SMALL | {
        "activation_fn": nn.GELU,
        "net_arch": [8],
        "features_extractor_class": FlattenExtractor,
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.9},
    }
    model = small(Blinker(), batch_size=16, policy_kwargs=kwargs)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    assert loaded.policy_kwargs["activation_fn"] is nn.GELU
    assert loaded.policy.optimizer_class is torch.optim.RMSprop
    combined = small(Pair(), batch_size=16, policy_kwargs=SMALL | {"features_extractor_class": CombinedExtractor})
    combined.save(tmp_path / "combined")
    assert type(MemoryPPO.load(tmp_path / "combined").policy.features_extractor) is CombinedExtractor


@pytest.mark.parametrize(
    "path", ["os:system", "subprocess:Popen", "torch.nn.modules.linear:F", "torch.optim.adam:cast"]
)
def test_a_file_cannot_name_anything_else(path: str) -> None:
    from expirespan.agents.checkpoint.values import rebuilt

    with pytest.raises(ValueError, match="Expect a network, extractor or optimizer class"):
        rebuilt({"activation_fn": {"class": path}})


def test_custom_objects_replace_what_is_stored_and_pass_over_the_rest(tmp_path: Path) -> None:
    small(learning_rate=lambda left: 1e-3).save(tmp_path / "model")
    objects = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}  # RL Zoo's
    model = MemoryPPO.load(tmp_path / "model", env=corridor(), custom_objects=objects, device="cpu")
    assert model.learning_rate == 0 and model.clip_range(1.0) == 0


@pytest.mark.parametrize("algorithm", [MemoryPPO, MemoryA2C])
def test_actor_and_critic_may_have_extractors_of_their_own(algorithm: Any, tmp_path: Path) -> None:
    kwargs = SMALL | {"share_features_extractor": False, "net_arch": {"pi": [8], "vf": [4]}}
    model = algorithm("MemoryPolicy", corridor(), n_steps=8, policy_kwargs=kwargs, device="cpu", seed=1)
    before = [p.clone() for p in model.policy.vf_features_extractor.parameters()]
    model.learn(64)
    after = model.policy.vf_features_extractor.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    obs = corridor().reset(seed=1)[0]
    assert loaded.predict(obs, deterministic=True)[0].tolist() == model.predict(obs, deterministic=True)[0].tolist()


@pytest.mark.parametrize("rows", [1, 7])
def test_another_number_of_environments(rows: int, tmp_path: Path) -> None:
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    model.set_env(corridor(rows))
    model.learn(16 * rows, reset_num_timesteps=False)
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(rows), device="cpu", force_reset=False, batch_size=None)
    loaded.learn(16 * rows, reset_num_timesteps=False)
    for agent in (model, loaded):
        assert agent.n_envs == rows and agent.num_timesteps == 64 + 16 * rows
        assert agent.rollout_buffer.actions.shape == (16, rows)


def test_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        small().set_env(Blinker())


class Named(Blinker):
    """Ends every episode with a text, a list and a number in its info."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"map": "forest", "goal": [1, 2], "size": np.float32(3)}


def test_whatever_a_monitor_records_can_be_stored(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(Named(), info_keywords=("map", "goal", "size"))])
    model = small(env, batch_size=16)
    model.learn(16)
    model.save(tmp_path / "model")
    episodes = MemoryPPO.load(tmp_path / "model", env=env, device="cpu").ep_info_buffer
    assert episodes is not None
    episode = episodes[0]
    assert (episode["map"], episode["goal"], episode["size"]) == ("forest", [1, 2], 3.0)


def test_truncation_without_the_last_observation_goes_without_bootstrap() -> None:
    class Silent(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            obs, rewards, dones, infos = self.venv.step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return obs, rewards, dones, infos

    model = small(Silent(DummyVecEnv([Blinker])), n_steps=6, batch_size=6)
    model.learn(6)
    assert model.rollout_buffer.rewards[:, 0].tolist() == [1.0] * 6


def test_an_environment_by_its_id_is_sb3s_and_is_copied_with_the_model() -> None:
    model = small("CartPole-v1", batch_size=16)
    env: Any = rows_of(model)
    assert env.envs[0].unwrapped.spec.id == "CartPole-v1"
    assert deepcopy(model).n_envs == 1
    assert pickle.loads(pickle.dumps(model.policy)).core.width == 16
    ours = small("expirespan/CorridorShort-v0", batch_size=16)
    ours.learn(16)
    copied, stored = deepcopy(ours), pickle.loads(pickle.dumps(ours.env))
    env = rows_of(copied)
    assert env.venv.spec.id == "expirespan/CorridorShort-v0" and stored.num_envs == 1
    copied.learn(16, reset_num_timesteps=False)
    ours.learn(16, reset_num_timesteps=False)
    assert all(torch.isfinite(weight).all() for weight in weights(copied))


def test_an_environment_that_takes_no_render_mode_is_trained_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "registry", dict(gym.registry))
    entry: Any = Plain  # Gymnasium declares that constructors take any arguments
    gym.register("test/Plain-v0", entry)
    assert small("test/Plain-v0", batch_size=16).learn(16).num_timesteps == 16


def test_callbacks_find_sb3s_names_in_their_locals() -> None:
    seen: dict[str, Any] = {}

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            seen.update(self.locals)
            return True

    small().learn(16 * 4, callback=Watch())
    names = {"obs_tensor", "actions", "clipped_actions", "values", "log_probs", "new_obs", "rewards", "dones", "infos"}
    assert isinstance(seen["self"], MemoryPPO)
    assert names <= set(seen) and seen["n_steps"] == 15 and isinstance(seen["actions"], np.ndarray)


class Rich(Blinker):
    """Rewards of 100."""

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 100.0, terminated, truncated, info


@pytest.mark.parametrize(
    ("settings", "wrap", "raw"),
    [({}, False, False), ({"normalize_reward": False}, False, True), ({}, True, True)],
)
def test_rewards_are_scaled_unless_asked_otherwise_or_normalised_already(
    settings: dict[str, Any], wrap: bool, raw: bool
) -> None:
    env: Any = VecMonitor(DummyVecEnv([Rich]))
    model = small(VecNormalize(env) if wrap else env, n_steps=6, batch_size=6, gamma=0.5, **settings)
    model.learn(24)
    scale = model.logger.name_to_value["train/reward_scale"]
    assert (scale == 1) is raw and (model.reward_scale.scale == 1) is raw


@pytest.mark.parametrize("budget", [20.0, None])
def test_memories_in_use_are_counted_with_and_without_a_budget(
    budget: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    observe = SpanController.observe

    def watched(self: SpanController, output: CoreOutput[Any]) -> None:
        observe(self, output)
        if output.trace is not None:  # of the first pass
            *_, used, late = output.facts[1].counts.tolist()
            seen.append((used, late))

    monkeypatch.setattr(SpanController, "observe", watched)
    model = small(memory_budget=budget, policy_kwargs={"memory": SMALL["memory"] | {"ramp": 2.0}})
    with torch.no_grad():
        for layer in span_core(model).stack():
            layer.query_key_value.weight *= 4  # sharp attention
    logged = model.learn(64).logger.name_to_value
    used, late = (sum(counts) for counts in zip(*seen, strict=True))
    assert (logged["spans/used_layer_2"], logged["spans/used_late_layer_2"]) == (used, late)
    assert len(seen) == 2 and used > 0


def test_a_tuple_from_reset_is_recognised() -> None:
    with pytest.raises(ValueError, match="actual: a tuple; Gymnasium's reset returns"):
        small().predict(corridor().reset(seed=1))


def test_arrays_and_dictionaries_are_not_taken_for_each_other() -> None:
    env = Blinker()
    env.observation_space = spaces.Dict({"near": spaces.Box(-1, 1, (2,)), "far": spaces.Box(-1, 1, (2,))})
    with pytest.raises(ValueError, match="`observation` to be a dictionary of far, near, actual: ndarray"):
        small(env, batch_size=None).predict(np.zeros(2))
    with pytest.raises(ValueError, match="`observation` to be an array, actual: dict"):
        small(Blinker(), batch_size=None).predict({"near": np.zeros(2)})


def test_an_environment_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`env` to be a Gymnasium environment or its id, .* actual: 5"):
        small(5)


def test_the_advice_for_next_step_autoreset_works() -> None:
    with pytest.raises(ValueError, match="same-step or disabled autoreset, actual: NextStep; make it by") as caught:
        small(gym.make_vec("CartPole-v1", num_envs=2))
    advice = str(caught.value).split("make it by ")[1].replace("id, num_envs=...", "'CartPole-v1', num_envs=2")
    env = eval(advice, {"gymnasium": gym})
    small(env, batch_size=None).learn(32)


def test_a_reward_that_is_no_number_is_named() -> None:
    class Broken(Blinker):
        def step(self, action: Any) -> Any:
            obs, _, terminated, truncated, info = super().step(action)
            return obs, float("nan"), terminated, truncated, info

    with pytest.raises(ValueError, match="Expect finite rewards, actual: nan"):
        small(Broken(), batch_size=16).learn(16)


def test_another_optimizer_than_the_stored_one_begins_anew(tmp_path: Path) -> None:
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    other = SMALL | {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {}}
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(), policy_kwargs=other, device="cpu")
    assert not loaded.policy.optimizer.state
    loaded.learn(64, reset_num_timesteps=False)


def test_observations_are_stored_as_they_were_seen() -> None:
    class Reusing(VecEnvWrapper):
        """Hands out one array again and again."""

        def reset(self) -> Any:
            self.array = np.asarray(self.venv.reset()).copy()
            return self.array

        def step_wait(self) -> Any:
            obs, rewards, dones, infos = self.venv.step_wait()
            self.array[:] = obs
            return self.array, rewards, dones, infos

    model = small(Reusing(DummyVecEnv([Blinker])), n_steps=6, batch_size=6)
    model.learn(6)
    assert model.rollout_buffer.observations[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_episodes_that_were_broken_off_leave_nothing_in_the_running_returns() -> None:
    model = small(n_steps=1, batch_size=1)
    model.learn(4)
    model.reward_scale._returns[:] = 50.0
    model.learn(4)  # begins new episodes
    assert model.reward_scale._returns.max() <= 1
