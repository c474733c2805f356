"""Windows of observations, and the core that reads them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from expirespan.agents import ExpireSpanExtractor, HistorySpace, HistoryWrapper
from expirespan.memory import ExpireSpanConfig, Record
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from histories import SMALL, VECTOR, Counter, Noise, as_sb3_gives, played
from stable_baselines3.common.env_checker import check_env as check_sb3_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize


def test_a_window_holds_the_last_observations_of_its_own_episode() -> None:
    env = HistoryWrapper(Counter(), length=3)
    env.reset()
    assert env.step(6)[0]["observation"].tolist() == [[1, 0], [1, 0], [1, 1]]
    assert env.step(6)[0]["observation"].tolist() == [[1, 0], [1, 1], [1, 2]]
    window, reward, terminated, truncated, _ = env.step(6)
    assert window["observation"].tolist() == [[1, 1], [1, 2], [1, 3]]
    assert (window["past"], reward, terminated, truncated) == (2, 30.0, False, True)
    window, _ = env.reset()
    assert (window["observation"].tolist(), window["past"]) == ([[2, 0], [2, 0], [2, 0]], 0)


def test_the_observation_that_ends_an_episode_is_the_window_of_that_episode() -> None:
    envs = DummyVecEnv([lambda: HistoryWrapper(Counter(), length=3)])
    envs.reset()
    envs.step(np.array([6]))
    envs.step(np.array([6]))
    seen, _, dones, infos = envs.step(np.array([6]))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"]["observation"].tolist() == [[1, 1], [1, 2], [1, 3]]
    assert infos[0]["terminal_observation"]["past"] == 2
    assert isinstance(seen, dict)
    assert (seen["observation"].tolist(), seen["past"].tolist()) == ([[[2, 0], [2, 0], [2, 0]]], [0])


def test_previous_actions_and_rewards_are_part_of_a_window_on_request() -> None:
    env = HistoryWrapper(Counter(), length=3, include_actions=True)
    window, _ = env.reset()
    assert window["action"].tolist() == [[0, 0, 0]] * 3
    env.step(6)
    window = env.step(7)[0]
    assert window["action"].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert window["reward"].tolist() == [[0], [10], [20]]
    assert env.observation_space.contains(window)


def test_writing_to_a_window_does_not_change_the_next() -> None:
    env = HistoryWrapper(Counter(), length=3)
    env.reset()[0]["observation"][:] = 99
    assert env.step(6)[0]["observation"].tolist() == [[1, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("include_actions", [False, True])
@pytest.mark.parametrize("extra", [{}, {"capacity": 3, "position_window": 4}])
def test_features_are_those_of_the_recurrent_core_at_every_step(include_actions: bool, extra: dict[str, Any]) -> None:
    env = HistoryWrapper(Noise(VECTOR), length=12, include_actions=include_actions)
    windows = played(env)
    assert len(windows) == 12
    torch.manual_seed(5)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL | extra).double()
    for layer in extractor.core.stack():
        torch.nn.init.normal_(layer.span.weight, std=0.5)  # spans of several lengths
    given = as_sb3_gives(env, windows)
    features = extractor(given)
    core, state = extractor.core, extractor.core.initial_state(1)
    with torch.no_grad():
        for step, window in enumerate(windows):
            parts = [window[name][-1] for name in ("observation", "action", "reward") if name in window]
            embedded = extractor.embed(torch.as_tensor(np.concatenate(parts), dtype=torch.float64))
            output = core(embedded.view(1, 1, -1), state, torch.tensor([[step == 0]]))
            state = output.state
            torch.testing.assert_close(features[step], output.y[0, 0], atol=1e-9, rtol=0)
        torch.testing.assert_close(extractor(given), features, atol=1e-9, rtol=0)


def test_what_stands_before_a_history_has_no_influence() -> None:
    env = HistoryWrapper(Noise(VECTOR), length=12)
    windows = played(env)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL, penalty_weight=0.1).double()
    given = as_sb3_gives(env, windows)
    features = extractor(given)
    features.square().sum().backward()
    gradients = [parameter.grad for parameter in extractor.parameters()]
    for row, window in enumerate(windows):
        window["observation"][: 11 - row] = 1e3
        alone = extractor(as_sb3_gives(env, [window]))[0]
        torch.testing.assert_close(alone, features[row], atol=1e-9, rtol=0)
    extractor.zero_grad()
    extractor(as_sb3_gives(env, windows)).square().sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in extractor.parameters()], gradients)


def test_gradients_reach_spans() -> None:
    env = HistoryWrapper(Noise(VECTOR), length=12)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL)
    extractor(as_sb3_gives(env, played(env))).square().sum().backward()
    for layer in extractor.core.stack():
        assert layer.span.bias.grad is not None
        assert layer.span.bias.grad.abs() > 1e-6


def test_the_gradient_of_the_penalty_is_that_of_a_term_of_the_loss() -> None:
    env = HistoryWrapper(Noise(VECTOR), length=12)
    windows = played(env)[-2:]  # 11 and 12 steps
    given = as_sb3_gives(env, windows)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL, penalty_weight=0.3).double()
    extractor(given).square().sum().backward()
    found = [parameter.grad for parameter in extractor.parameters()]
    extractor.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for window in windows:
        seen = torch.as_tensor(window["observation"][-1 - window["past"] :], dtype=torch.float64)
        resets = torch.arange(len(seen)).view(1, -1) == 0
        state = extractor.core.initial_state(1)
        read = extractor.core(extractor.embed(seen).unsqueeze(0), state, resets, record=Record.LOSSES)
        total = total + read.y[0, -1].square().sum() + 0.3 * read.losses["penalty"] / 23
    total.backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in extractor.parameters()])


def test_a_window_forgets_what_the_memory_would() -> None:
    env = HistoryWrapper(Noise(VECTOR), length=12)
    extractor = ExpireSpanExtractor(env.observation_space, SMALL)
    trace = extractor.read(as_sb3_gives(env, played(env)[-1:])).trace
    assert trace is not None
    assert [layer.live[0].tolist() for layer in trace] == [[1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8]] * 2


def test_no_memory_outlives_the_window_by_default() -> None:
    space = HistorySpace(VECTOR, 48, "numbers")
    assert ExpireSpanExtractor(space).core.config.max_span == 48
    assert ExpireSpanExtractor(space, {"width": 16}).core.config.max_span == 48
    assert ExpireSpanExtractor(space, {"max_span": 20.0}).core.config.max_span == 20
    assert ExpireSpanExtractor(space, ExpireSpanConfig(max_span=30.0)).core.config.max_span == 30


def test_spaces_are_equal_where_the_steps_are() -> None:
    space = HistorySpace(spaces.Box(0, 1, (2, 3)), 4, "numbers")
    assert space == HistorySpace(spaces.Box(0, 1, (2, 3)), 4, "numbers")
    assert space != HistorySpace(spaces.Box(0, 1, (3, 2)), 4, "numbers")
    assert space != HistorySpace(spaces.Box(0, 1, (2, 3)), 5, "numbers")


def test_environments_in_other_processes_give_the_same_windows() -> None:
    seen = []
    for kind in (DummyVecEnv, SubprocVecEnv):
        envs = make_vec_env(
            "CartPole-v1",
            2,
            seed=3,
            vec_env_cls=kind,
            wrapper_class=HistoryWrapper,
            wrapper_kwargs={"length": 5, "include_actions": True},
        )
        assert isinstance(envs.observation_space, HistorySpace)
        envs.reset()
        for _ in range(14):
            envs.step(np.array([1, 1]))
        seen.append(envs.step(np.array([1, 1]))[0])
        envs.close()
    np.testing.assert_equal(seen[1], seen[0])


def test_vec_normalize_is_told_that_windows_are_not_to_be_normalised() -> None:
    envs = make_vec_env(Counter, 1, wrapper_class=HistoryWrapper)
    with pytest.raises(ValueError, match=r"VecNormalize only supports `gym\.spaces\.Box`"):
        VecNormalize(envs)
    assert isinstance(VecNormalize(envs, norm_obs=False).observation_space, HistorySpace)


def test_a_registered_environment_keeps_its_wrapper_in_its_spec() -> None:
    env = HistoryWrapper(gym.make("CartPole-v1"), length=5)
    assert env.spec is not None
    assert isinstance(gym.make(env.spec).observation_space, HistorySpace)


@pytest.mark.parametrize("length", [0, -1])
def test_a_window_needs_a_step(length: int) -> None:
    with pytest.raises(ValueError, match=f"Expect `length` to be at least 1, actual: {length}"):
        HistoryWrapper(Counter(), length=length)


def test_a_length_is_whole() -> None:
    with pytest.raises(TypeError, match="Expect `length` to be an int, actual: True"):
        HistoryWrapper(Counter(), length=True)


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Tuple([VECTOR]), spaces.Dict(a=VECTOR)])
def test_spaces_that_windows_cannot_hold_are_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="Expect `env` to have observations of type Box, Discrete, MultiDiscrete"):
        HistoryWrapper(Noise(spaces.Dict(part=space)))


def test_kinds_of_observations_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="Expect `observations` to fit the space, actual: 'picture'"):
        HistoryWrapper(Noise(VECTOR), observations="picture")


def test_actions_without_a_size_are_refused() -> None:
    with pytest.raises(ValueError, match="Expect `action_space` to have a fixed size where actions are included"):
        HistoryWrapper(Noise(VECTOR, spaces.Sequence(VECTOR)), include_actions=True)


def test_an_environment_without_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="Expect `observation_space` to be a HistorySpace"):
        ExpireSpanExtractor(VECTOR)


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expect `penalty_weight` to be at least 0, actual: -0\.5"):
        ExpireSpanExtractor(HistorySpace(VECTOR, 16, "numbers"), penalty_weight=-0.5)


def test_a_penalty_that_can_shorten_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expect `initial_span` \* `max_span` to be less than 15 .* actual: 3276\.8"):
        ExpireSpanExtractor(HistorySpace(VECTOR, 16, "numbers"), ExpireSpanConfig(), penalty_weight=1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # advice: on shapes and bounds, and not to check wrappers
@pytest.mark.parametrize("include_actions", [False, True])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "CliffWalking-v1"])
def test_the_checkers_of_sb3_and_gymnasium_pass(env_id: str, include_actions: bool) -> None:
    env = HistoryWrapper(gym.make(env_id), 5, include_actions)
    check_sb3_env(env)
    check_env(env, skip_render_check=True)


def test_a_misspelt_option_of_the_memory_is_named() -> None:
    space = HistoryWrapper(gym.make("CartPole-v1"), 3).observation_space
    with pytest.raises(TypeError, match="arguments of `memory`, actual: `widht`; did you mean `width`"):
        ExpireSpanExtractor(space, memory={"widht": 8})
