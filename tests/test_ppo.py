"""The algorithm: acting equals training, bootstrapping, saving, and the manners of an SB3 algorithm."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import GymnasiumVecEnv, MemoryPPO
from expirespan.agents.evaluation import evaluate_policy as play
from expirespan.agents.policy import MemoryActorCriticPolicy, default_extractor
from expirespan.agents.vec_env import seen_by_policies
from expirespan.envs import CorridorVectorEnv
from expirespan.memory import ExpireSpanConfig
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

SMALL = {"memory": {"layers": 2, "width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 4.0}}


def corridor(rows: int = 4, **arguments: int) -> CorridorVectorEnv:
    return CorridorVectorEnv(rows, **({"min_length": 3, "max_length": 7} | arguments))


def small(env: Any = None, **arguments: Any) -> MemoryPPO:
    settings = {"n_steps": 16, "batch_size": 32, "policy_kwargs": SMALL, "seed": 3, "device": "cpu"}
    return MemoryPPO("MemoryPolicy", env if env is not None else corridor(), **(settings | arguments))


def rows_of(model: MemoryPPO) -> VecEnv:
    assert model.env is not None
    return model.env


def weights(model: MemoryPPO) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


@pytest.mark.parametrize("capacity", [None, 3])
def test_acting_equals_training(capacity: int | None) -> None:
    model = small(policy_kwargs={"memory": SMALL["memory"] | {"capacity": capacity, "position_window": 5}})
    model.learn(16 * 4 * 5)
    callback = model._init_callback(None)
    model.collect_rollouts(rows_of(model), callback, model.rollout_buffer, model.n_steps)
    buffer = model.rollout_buffer
    assert buffer.state.layers[0].live.any()  # memories from earlier rollouts take part
    now = model.policy.evaluate_sequences(buffer.observations, buffer.actions, buffer.state, buffer.episode_starts)
    torch.testing.assert_close((now.log_prob - buffer.log_probs).exp(), torch.ones(16, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(now.values, buffer.values, atol=1e-4, rtol=0)


class Blinker(gym.Env):
    """Shows its step count; reward 1 a step; truncated after 3 steps."""

    observation_space = spaces.Box(0, 10, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([0, 1], dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.array([self.steps, 1], dtype=np.float32), 1.0, False, self.steps == 3, {}


def test_truncated_episodes_bootstrap_with_the_memory_before_the_reset() -> None:
    model = small(DummyVecEnv([Blinker]), n_steps=3, batch_size=3, gamma=0.9)
    torch.nn.init.normal_(model.policy.value_net.weight)
    _, callback = model._setup_learn(3)
    model.collect_rollouts(rows_of(model), callback, model.rollout_buffer, 3)
    state = model.policy.initial_state(1)
    with torch.no_grad():
        for step in range(3):
            obs = torch.tensor([[step, 1.0]])
            state = model.policy(obs, state, torch.tensor([step == 0]))[3]
        last = model.policy.predict_values(torch.tensor([[3.0, 1.0]]), state, torch.tensor([False]))
        forgetful = model.policy.predict_values(torch.tensor([[3.0, 1.0]]), state, torch.tensor([True]))
    assert not torch.allclose(last, forgetful)
    expected = torch.tensor([1, 1, 1 + 0.9 * last.item()])
    torch.testing.assert_close(model.rollout_buffer.rewards[:, 0], expected)


def test_batch_size_that_does_not_divide_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"`batch_size` .* one of 16, 32, 64, actual: 48"):
        small(batch_size=48)
    with pytest.raises(ValueError, match="`batch_size`"):
        small(batch_size=20)


@pytest.mark.parametrize(("rows", "steps", "size"), [(1, 16, 16), (6, 256, 768), (32, 128, 1024), (2, 2048, 2048)])
def test_batch_size_that_is_not_given_fits(rows: int, steps: int, size: int) -> None:
    assert small(corridor(rows), n_steps=steps, batch_size=None).batch_size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "`n_steps` to be at least 1, actual: 0"),
        ({"gamma": 1.5}, "`gamma` to be between 0 and 1, actual: 1.5"),
        ({"clip_range": 0.0}, "`clip_range` to be positive, actual: 0.0"),
        ({"memory_budget": -1.0}, "`memory_budget` to be positive, actual: -1.0"),
        ({"penalty_weight": float("nan")}, "`penalty_weight` to be finite, actual: nan"),
        ({"policy_kwargs": {"memory": {"heads": 3}}}, r"`width` to be a multiple of `heads` \(3\), actual: 64"),
        ({"policy_kwargs": {"memory": {"initial_span": 1.0}}}, "`initial_span` to be between 0 and 1, both excluded"),
        ({"policy_kwargs": {"memory": {"capacity": -1}}}, "`capacity` to be at least 0, actual: -1"),
        ({"policy_kwargs": {"memory": {"dropout": 1.0}}}, "`dropout` to be at least 0 and less than 1, actual: 1.0"),
        ({"policy_kwargs": {"memory": {"ramp": 0.0}}}, "`ramp` to be positive, actual: 0.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match=r"`n_epochs` to be an int, actual: 2\.5"):
        from expirespan.memory.checks import check_whole

        check_whole("n_epochs", 2.5, at_least=1)


class Mixed(gym.Env):
    """A dictionary of numbers in, continuous actions out."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(5)})
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), float(action.flat[0]), self.steps > 5, False, {}


class Table(Mixed):
    """Actions in rows and columns."""

    action_space = spaces.Box(-1, 1, (2, 3))


class Pixels(gym.Env):
    """Pictures in colour in, several switches out."""

    observation_space = spaces.Box(0, 255, (40, 48, 3), np.uint8)
    action_space = spaces.MultiBinary(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(np.asarray(action, dtype=np.int8))
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 5, False, {}


@pytest.mark.parametrize(
    "env",
    [
        lambda: "CartPole-v1",
        lambda: "expirespan/CorridorShort-v0",
        lambda: ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0")),
        Mixed,
        Table,
        Pixels,
        lambda: DummyVecEnv([Mixed, Mixed]),
    ],
)
def test_other_environments_train_and_evaluate(env: Any, tmp_path: Path) -> None:
    model = small(env(), batch_size=16)
    before = weights(model)
    model.learn(48)
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    player: Any = model  # SB3 declares states to be tuples of arrays, and only hands them back
    evaluate_policy(player, rows_of(model), n_eval_episodes=3, warn=False)
    model.save(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", device="cpu").action_space == model.action_space


def test_pictures_are_evaluated_as_they_were_trained_on() -> None:
    model = small(Pixels(), batch_size=16)
    model.learn(16)
    rows = SyncVectorEnv([Pixels] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert seen_by_policies(rows.single_observation_space) == model.observation_space
    assert play(model.policy, rows, 4, 1).returns.tolist() == [6.0] * 4


def test_minigrids_text_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"wrap it in minigrid\.wrappers\.ImgObsWrapper"):
        small(gym.make("expirespan/Corridor-v0"))


def test_codes_in_a_dictionary_and_pictures_that_look_like_codes_are_refused_with_what_to_do() -> None:
    codes = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)})
    with pytest.raises(ValueError, match=r"MiniGrid's codes .*, actual: image; wrap .*ImgObsWrapper"):
        default_extractor(codes)
    tiles = RGBImgPartialObsWrapper(gym.make("expirespan/Corridor-v0"), tile_size=4)
    with pytest.raises(ValueError, match=r"Expect observations of MiniGrid's codes, .*`features_extractor_class`"):
        small(ImgObsWrapper(tiles), batch_size=16).learn(16)


def test_what_sb3s_policies_do_without_a_memory_is_refused() -> None:
    policy, obs = small().policy, torch.zeros(4, 3, 3, 3)
    with pytest.raises(NotImplementedError, match="action_logits"):
        policy.get_distribution(obs)
    with pytest.raises(NotImplementedError, match="evaluate_sequences"):
        policy.evaluate_actions(obs, torch.zeros(4))


def test_a_saved_policy_keeps_its_memory_options(tmp_path: Path) -> None:
    policy = small().policy
    policy.save(str(tmp_path / "policy.pt"))
    assert MemoryActorCriticPolicy.load(str(tmp_path / "policy.pt")).memory_config == policy.memory_config


def test_another_environment_can_be_set() -> None:
    model = small()
    model.set_env(corridor())
    model.learn(64)
    assert model.num_timesteps == 64


def test_a_loaded_model_begins_with_other_episodes_than_training_did(tmp_path: Path) -> None:
    model = small(corridor(min_length=3, max_length=200))
    first = rows_of(model).reset()
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryPPO.load(tmp_path / "model", env=corridor(min_length=3, max_length=200), device="cpu")
    again = rows_of(loaded).reset()
    assert isinstance(first, np.ndarray) and isinstance(again, np.ndarray) and (first != again).any()


def test_the_papers_optimizer_trains() -> None:
    model = small(policy_kwargs=SMALL | {"optimizer_class": torch.optim.RMSprop})
    before = weights(model)
    model.learn(16 * 4)
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_predict_carries_memory_and_forgets_at_episode_starts() -> None:
    model = small()
    model.learn(64)
    env = VecMonitor(GymnasiumVecEnv(corridor()))
    obs = env.reset()
    assert isinstance(obs, np.ndarray)
    actions, state = model.predict(obs, episode_start=np.ones(4, dtype=bool), deterministic=True)
    assert actions.shape == (4,) and state.time.tolist() == [1, 1, 1, 1]
    _, state = model.predict(obs, state, np.array([False, True, False, False]))
    assert state.time.tolist() == [2, 1, 2, 2]
    action, state = model.predict(obs[0])
    assert np.shape(action) == () and state.time.tolist() == [1]
    with pytest.raises(ValueError, match="a row for each of 4 observations, actual: 1 and 4"):
        model.predict(obs, state)


def test_saved_model_acts_the_same_and_its_file_executes_nothing(tmp_path: Path) -> None:
    model = small(tensorboard_log=tmp_path / "events")
    model.learn(128)
    model.save(tmp_path / "model")
    path = tmp_path / "model.safetensors"
    assert b"pickle" not in path.read_bytes()[:4096]
    loaded = MemoryPPO.load(tmp_path / "model", device="cpu")
    obs = corridor().reset(seed=1)[0]
    for mine, theirs in zip(weights(model), weights(loaded), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert model.predict(obs, deterministic=True)[0].tolist() == loaded.predict(obs, deterministic=True)[0].tolist()
    assert loaded.num_timesteps == 128 and loaded.config == model.config
    assert loaded.policy.memory_config == ExpireSpanConfig(**SMALL["memory"])


def test_training_continues_exactly_from_a_file(tmp_path: Path) -> None:
    whole = small(anneal=False)  # an annealed step size depends on the total
    whole.learn(16 * 4 * 6)
    half = small(anneal=False)
    half.learn(16 * 4 * 3)
    half.save(tmp_path / "half")
    rest = MemoryPPO.load(tmp_path / "half", env=corridor(), device="cpu", force_reset=False)
    rest.learn(16 * 4 * 3, reset_num_timesteps=False)
    for mine, theirs in zip(weights(whole), weights(rest), strict=True):
        assert torch.equal(mine, theirs)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "model")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a readable checkpoint"):
        MemoryPPO.load(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        MemoryPPO.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="spaces do not match"):
        MemoryPPO.load(tmp_path / "model", env=corridor(view_size=5))


def test_what_a_file_cannot_hold_must_be_given_again(tmp_path: Path) -> None:
    from stable_baselines3.common.torch_layers import FlattenExtractor

    kwargs = SMALL | {"features_extractor_class": FlattenExtractor}
    small(policy_kwargs=kwargs).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"`policy_kwargs` to be given: .* policy_kwargs\.features_extractor_class"):
        MemoryPPO.load(tmp_path / "model")
    assert MemoryPPO.load(tmp_path / "model", policy_kwargs=kwargs).policy_kwargs["features_extractor_class"]


def test_callbacks_and_logger_are_sb3s(tmp_path: Path) -> None:
    class Count(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 20

    model = small(tensorboard_log=str(tmp_path))
    callback = Count()
    model.learn(10_000, callback=callback)
    assert callback.n_calls == 20
    tags = set(model.logger.name_to_value)
    assert {"memory/live_layer_1", "memory/span_max_layer_2", "memory/evictions_layer_1", "memory/penalty"} <= tags
    assert {
        "memory/penalty_weight",
        "memory/pull",
        "memory/spans_layer_1",
        "train/approx_kl",
        "train/value_loss",
    } <= tags


def test_evictions_are_counted_when_the_capacity_is_reached() -> None:
    model = small(policy_kwargs={"memory": SMALL["memory"] | {"capacity": 1}})
    model.learn(16 * 4)
    assert model.logger.name_to_value["memory/evictions_layer_1"] > 0


@pytest.mark.parametrize(("steps", "rates"), [(10, [1.0]), (16 * 4 * 2 + 1, [1.0, 65 / 129, 1 / 129])])
def test_the_step_size_stays_above_zero_when_the_total_is_no_multiple_of_a_rollout(
    steps: int, rates: list[float]
) -> None:
    model = small(learning_rate=1e-3)
    taken: list[float] = []
    step = model.policy.optimizer.step
    model.policy.optimizer.step = lambda: (taken.append(model.policy.optimizer.param_groups[0]["lr"]), step())  # pyright: ignore[reportAttributeAccessIssue]
    model.learn(steps)
    assert taken[:: model.config.n_epochs * 2] == pytest.approx([1e-3 * rate for rate in rates])


class StopAtAnEnd(BaseCallback):
    """Stops in the step at which an episode ends."""

    def _on_step(self) -> bool:
        return not self.locals["dones"].any()


def test_a_callback_that_stops_inside_a_rollout_leaves_memory_and_environment_at_the_same_step() -> None:
    model = small(corridor(max_steps=9, min_length=20, max_length=20))
    model.learn(1000, callback=StopAtAnEnd())
    assert model._last_episode_starts is not None and model._last_episode_starts.all()
    assert model._memory is not None and model._memory.time.eq(9).all()
    model.learn(16 * 4, reset_num_timesteps=False)
    assert model.rollout_buffer.episode_starts[0].all()


def test_vector_environments_with_next_step_autoreset_are_refused() -> None:
    with pytest.raises(ValueError, match="same-step or disabled autoreset, actual: NextStep"):
        GymnasiumVecEnv(SyncVectorEnv([Blinker]))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_adapter_keeps_terminal_observations(mode: AutoresetMode) -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Blinker, Blinker], autoreset_mode=mode))
    env.reset()
    for step in range(1, 7):
        obs, rewards, dones, infos = env.step(np.array([0, 1]))
        assert dones.tolist() == [step % 3 == 0] * 2 and rewards.tolist() == [1, 1]
        assert isinstance(obs, np.ndarray) and obs[:, 0].tolist() == [step % 3] * 2
        if dones[0]:
            assert infos[1]["terminal_observation"].tolist() == [3, 1] and infos[1]["TimeLimit.truncated"]


def test_adapter_hands_out_observations_that_later_steps_leave_alone() -> None:
    env = GymnasiumVecEnv(SyncVectorEnv([Blinker, Blinker], copy=False, autoreset_mode=AutoresetMode.SAME_STEP))
    first = env.reset()
    second = env.step(np.array([0, 1]))[0]
    env.step(np.array([0, 1]))
    assert isinstance(second, np.ndarray) and first[:, 0].tolist() == [0, 0] and second[:, 0].tolist() == [1, 1]


def test_spans_of_memories_used_late_are_lengthened_on_request() -> None:
    means = []
    for late_pull in (0.0, 3.0):
        memory = SMALL["memory"] | {"max_span": 40.0, "initial_span": 0.1, "ramp": 2.0}
        model = small(policy_kwargs={"memory": memory}, late_pull=late_pull, memory_budget=1000.0, learning_rate=1e-9)
        with torch.no_grad():
            for layer in model.policy.core.stack():
                layer.query_key_value.weight *= 4  # sharp attention
        model.learn(4 * model.n_steps * model.n_envs)
        assert model.logger.name_to_value["memory/used_late_layer_1"] > 0
        means.append(model.logger.name_to_value["memory/span_mean_layer_1"])
    assert means[1] > means[0] * 1.2
