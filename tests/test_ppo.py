"""The algorithm: acting equals training, bootstrapping, and the manners of an SB3 algorithm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expirespan import MemoryPPO
from expirespan.agents import GymnasiumVecEnv, TrainingDiverged
from models import SMALL, Blinker, corridor, rows_of, small, span_core, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor


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


@pytest.mark.parametrize("size", [20, 80])
def test_batch_size_that_is_no_whole_columns_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"`batch_size` to be a multiple of `n_steps` \(16\).* 64, actual: {size}"):
        small(batch_size=size)


def test_columns_that_a_batch_size_does_not_divide_are_shared_out_evenly() -> None:
    model = small(corridor(5), batch_size=48)
    model.learn(16 * 5)
    sizes = [batch.old_values.shape[1] for batch in model.rollout_buffer.get(model.batch_size)]
    assert sizes == [3, 2]


def test_rollouts_are_shorter_with_few_environments(tmp_path: Path) -> None:
    assert [small(corridor(rows), n_steps=None, batch_size=None).n_steps for rows in (31, 32)] == [64, 128]
    few = small(corridor(2), n_steps=None, batch_size=None)
    assert (few.batch_size, few.config.n_steps) == (64, 64)
    few.save(tmp_path / "few")
    # A loaded model keeps what it was trained with.
    assert MemoryPPO.load(tmp_path / "few", env=corridor(40)).n_steps == MemoryPPO.load(tmp_path / "few").n_steps == 64


@pytest.mark.parametrize(
    ("rows", "steps", "groups"),
    [(1, 16, [1]), (6, 256, [2, 2, 2]), (8, 128, [2] * 4), (11, 128, [3, 3, 3, 2]), (32, 128, [8] * 4)],
)
def test_without_a_batch_size_there_are_four_minibatches_or_more(rows: int, steps: int, groups: list[int]) -> None:
    model = small(corridor(rows), n_steps=steps, batch_size=None)
    model.rollout_buffer.begin(model.policy.initial_state(rows))
    assert [batch.old_values.shape[1] for batch in model.rollout_buffer.get(model.batch_size)] == groups
    assert max(groups) * steps <= max(1024, steps)


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
        from expirespan.checks import check_whole

        check_whole("n_epochs", 2.5, at_least=1)


def test_what_sb3s_policies_do_without_a_memory_is_refused() -> None:
    policy, obs = small().policy, torch.zeros(4, 3, 3, 3)
    with pytest.raises(NotImplementedError, match="action_logits"):
        policy.get_distribution(obs)
    with pytest.raises(NotImplementedError, match="evaluate_sequences"):
        policy.evaluate_actions(obs, torch.zeros(4))


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


def test_callbacks_and_logger_are_sb3s(tmp_path: Path) -> None:
    class Count(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 20

    model = small(tensorboard_log=str(tmp_path))
    callback = Count()
    model.learn(10_000, callback=callback)
    assert callback.n_calls == 20
    tags = set(model.logger.name_to_value)
    assert {"memory/live_layer_1", "spans/max_layer_2", "spans/evictions_layer_1", "memory/penalty"} <= tags
    assert {
        "spans/penalty_weight",
        "spans/pull",
        "spans/spans_layer_1",
        "train/approx_kl",
        "train/value_loss",
    } <= tags


def test_evictions_are_counted_when_the_capacity_is_reached() -> None:
    model = small(policy_kwargs={"memory": SMALL["memory"] | {"capacity": 1}})
    model.learn(16 * 4)
    assert model.logger.name_to_value["spans/evictions_layer_1"] > 0


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


def test_spans_of_memories_used_late_are_lengthened_on_request() -> None:
    means = []
    for late_pull in (0.0, 3.0):
        memory = SMALL["memory"] | {"max_span": 40.0, "initial_span": 0.1, "ramp": 2.0}
        model = small(policy_kwargs={"memory": memory}, late_pull=late_pull, memory_budget=1000.0, learning_rate=1e-9)
        with torch.no_grad():
            for layer in span_core(model).stack():
                layer.query_key_value.weight *= 4  # sharp attention
        model.learn(4 * model.n_steps * model.n_envs)
        assert model.logger.name_to_value["spans/used_late_layer_1"] > 0
        means.append(model.logger.name_to_value["spans/mean_layer_1"])
    assert means[1] > means[0] * 1.2


def test_gradients_that_are_not_finite_are_named_with_what_made_them() -> None:
    class Huge(Blinker):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return observation * np.float32(1e30), *rest

    model = small(make_vec_env(Huge, 4))
    before = weights(model)
    with pytest.raises(
        TrainingDiverged, match=r"finite gradients, .* after 64 steps, .* observations up to [23]e\+30, rewards"
    ):
        model.learn(128)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))
