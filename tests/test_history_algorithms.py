"""SB3's and sb3-contrib's own algorithms with memory, by `policy_kwargs` alone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expirespan.agents import ExpireSpanExtractor, HistoryWrapper
from gymnasium import spaces
from histories import Counter, Noise, Recall
from sb3_contrib import QRDQN, MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecEnv

SMALL: dict[str, Any] = {"layers": 1, "width": 16, "ff_width": 16, "ramp": 2.0}
ON_POLICY: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 4, "learning_rate": 3e-3, "gamma": 0.9}
REPLAY: dict[str, Any] = {"learning_starts": 50, "batch_size": 32, "buffer_size": 1000, "train_freq": 4}
ALGORITHMS: dict[type[BaseAlgorithm], tuple[str, dict[str, Any]]] = {
    DQN: ("discrete", REPLAY | {"target_update_interval": 100}),
    QRDQN: ("discrete", REPLAY | {"target_update_interval": 100}),
    SAC: ("continuous", REPLAY),
    TD3: ("continuous", REPLAY),
    PPO: ("discrete", ON_POLICY),
    MaskablePPO: ("masked", ON_POLICY),
}


def recall(kind: str, rows: int = 8, seed: int = 1, **wrapper: Any) -> VecEnv:
    settings = {"length": 4} | wrapper
    return make_vec_env(
        Recall, rows, seed=seed, env_kwargs={"kind": kind}, wrapper_class=HistoryWrapper, wrapper_kwargs=settings
    )


def agent(algorithm: Any, env: VecEnv, seed: int = 1, policy: dict[str, Any] | None = None, **changes: Any) -> Any:
    memory = {"features_extractor_class": ExpireSpanExtractor, "features_extractor_kwargs": {"memory": SMALL}}
    settings = ALGORITHMS[algorithm][1] | changes
    kwargs = {"net_arch": [16]} | memory | (policy or {})
    return algorithm("MultiInputPolicy", env, policy_kwargs=kwargs, seed=seed, device="cpu", **settings)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_train_and_act_the_same_after_saving(algorithm: Any, tmp_path: Path) -> None:
    env = recall(ALGORITHMS[algorithm][0], rows=2, include_actions=True)
    model = agent(algorithm, env)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(300)
    assert any((a != b).any() for a, b in zip(model.policy.parameters(), before, strict=True))
    model.save(tmp_path / "agent")
    for loaded in (algorithm.load(tmp_path / "agent", device="cpu"), algorithm.load(tmp_path / "agent", env=env)):
        seen = env.reset()
        for _ in range(6):
            actions, _ = model.predict(seen, deterministic=True)
            np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], actions)
            seen, *_ = env.step(actions)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_act_on_one_environment_without_rows(algorithm: Any) -> None:
    env = HistoryWrapper(Recall(ALGORITHMS[algorithm][0]), length=4)
    model = agent(algorithm, recall(ALGORITHMS[algorithm][0], rows=2))
    action, _ = model.predict(env.reset(seed=1)[0], deterministic=True)
    assert env.action_space.contains(action if action.shape else np.int64(action))


@pytest.mark.parametrize("share", [False, True])
def test_actor_and_critic_share_an_extractor_on_request_only(share: bool) -> None:
    model = agent(SAC, recall("continuous", rows=1), policy={"share_features_extractor": share})
    model.learn(80)
    assert (model.actor.features_extractor is model.critic.features_extractor) == share
    assert model.critic_target.features_extractor is not model.critic.features_extractor
    model = agent(PPO, recall("discrete", rows=2), policy={"share_features_extractor": share})
    model.learn(64)
    assert (model.policy.pi_features_extractor is model.policy.vf_features_extractor) == share


def test_target_networks_follow_the_extractor() -> None:
    model = agent(DQN, recall("discrete", rows=1), target_update_interval=1, tau=0.5, learning_rate=1e-2)
    target = model.q_net_target.features_extractor
    begun = [parameter.clone() for parameter in target.parameters()]
    model.learn(100)
    ours = list(model.q_net.features_extractor.parameters())
    assert any((a != b).any() for a, b in zip(target.parameters(), begun, strict=True))
    gaps = [float((a - b).detach().abs().max()) for a, b in zip(target.parameters(), ours, strict=True)]
    assert 0 < max(gaps) < 0.1


def test_sb3s_initialisation_leaves_the_core_its_own() -> None:
    extractor = agent(PPO, recall("discrete", rows=2)).policy.features_extractor
    query = next(extractor.core.stack()).query_key_value.weight[:16]
    torch.testing.assert_close(query @ query.T, torch.eye(16))


@pytest.mark.parametrize("masker", ["method", "inside", "outside"])
def test_action_masks_pass_through_the_wrapper(masker: str) -> None:
    def legal(env: Any) -> np.ndarray:
        return np.array([False, False, True])

    def make() -> Any:
        if masker == "method":
            return HistoryWrapper(Recall("masked"), length=4)
        if masker == "inside":
            return HistoryWrapper(ActionMasker(Noise(spaces.Box(-1, 1, (3,))), legal), length=4)
        return ActionMasker(HistoryWrapper(Noise(spaces.Box(-1, 1, (3,))), length=4), legal)

    model = agent(MaskablePPO, make_vec_env(make, 2))
    model.learn(64)
    assert model.env is not None
    masks = get_action_masks(model.env)
    allowed = {"method": {0, 1}}.get(masker, {2})
    actions = {int(one) for _ in range(10) for one in model.predict(model.env.reset(), action_masks=masks)[0]}
    assert actions <= allowed
    assert set(model.rollout_buffer.actions.astype(int).flatten()) <= allowed


def test_a_replay_buffer_holds_the_window_that_ended_a_truncated_episode() -> None:
    env = HistoryWrapper(Counter(), length=3)
    env.action_space = spaces.Discrete(3)  # SB3 knows no start
    model = agent(DQN, make_vec_env(lambda: env, 1))
    model.learn(9)
    stored = model.replay_buffer
    assert stored.timeouts[:6, 0].tolist() == [0, 0, 1, 0, 0, 1]
    episode = stored.observations["observation"][2, 0, -1, 0]
    assert stored.next_observations["observation"][2, 0].tolist() == [[episode, 1], [episode, 2], [episode, 3]]
    assert stored.observations["past"][3, 0].tolist() == [0]


def mean_span(model: Any) -> float:
    """In steps, of the memories in the windows of the first ten steps of four episodes."""
    model.env.reset()
    for _ in range(8):
        model.env.step(np.zeros(4, dtype=np.int64))
    seen = model.env.step(np.zeros(4, dtype=np.int64))[0]
    given = preprocess_obs(model.policy.obs_to_tensor(seen)[0], model.observation_space)
    (trace,) = model.policy.features_extractor.read(given).trace
    return trace.span.mean().item()


def test_the_penalty_shortens_spans() -> None:
    spans = []
    for weight in (0.0, 1.0):
        env = make_vec_env(lambda: Noise(spaces.Box(-1, 1, (3,))), 4, wrapper_class=HistoryWrapper)
        extractor = {"memory": SMALL | {"max_span": 10.0, "initial_span": 0.5}, "penalty_weight": weight}
        model = agent(PPO, env, policy={"features_extractor_kwargs": extractor})
        assert mean_span(model) == pytest.approx(5.0)
        model.learn(32 * 4 * 5)
        spans.append(mean_span(model))
    assert spans[0] > 3.5
    assert spans[1] < 2.0


def success(algorithm: Any, steps: int, length: int, **settings: Any) -> float:
    """Of 200 episodes of evaluation, after training with windows of some length; chance is 0.5."""
    kind = ALGORITHMS[algorithm][0]
    model = agent(algorithm, recall(kind, length=length), **settings)
    model.learn(steps)
    return float(evaluate_policy(model, recall(kind, seed=100, length=length), 200)[0])  # pyright: ignore[reportArgumentType]  # one number


def test_ppo_recalls_with_memory_and_guesses_without() -> None:
    assert success(PPO, 2048, length=4, learning_rate=1e-2) > 0.95
    assert success(PPO, 2048, length=1, learning_rate=1e-2) < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [DQN, QRDQN, SAC, MaskablePPO])
def test_the_others_recall_with_memory_and_guess_without(algorithm: Any) -> None:
    settings: dict[str, Any] = {}
    if algorithm is not MaskablePPO:
        settings = {"learning_rate": 3e-3, "gamma": 0.9, "learning_starts": 500, "batch_size": 64, "train_freq": 1}
    if algorithm in (DQN, QRDQN):
        settings |= {"target_update_interval": 200, "exploration_fraction": 0.5}
    assert success(algorithm, 8000, length=4, **settings) > 0.95
    assert success(algorithm, 8000, length=1, **settings) < 0.65


def snippets() -> list[str]:
    page = Path(__file__).parent.parent / "docs" / "other-algorithms.md"
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(7))
def test_the_documents_snippets_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(snippets()) == 7
    shorter = re.sub(r"learning_starts=[\d_]+", "learning_starts=40", snippets()[number])
    shorter = re.sub(r"n_steps=\d+, batch_size=\d+", "n_steps=16, batch_size=64", shorter)
    shorter = re.sub(r"learn\([\d_]+\)", "learn(60)", shorter)
    monkeypatch.chdir(tmp_path)
    exec(compile(shorter, f"snippet {number}", "exec"), {})
