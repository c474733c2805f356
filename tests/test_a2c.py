"""What A2C has of its own; what it shares with PPO is tested there."""

from pathlib import Path

import pytest
import torch
from expirespan.agents import A2CConfig, MemoryA2C, MemoryPPO
from models import SMALL, corridor


def small() -> MemoryA2C:
    return MemoryA2C("MemoryPolicy", corridor(), n_steps=8, batch_size=16, policy_kwargs=SMALL, seed=3, device="cpu")


def test_every_step_of_a_rollout_is_learned_from_once() -> None:
    model = small()
    model.learn(8 * 4 * 5)
    steps = [slot["step"].item() for slot in model.policy.optimizer.state.values()]
    assert set(steps) == {5 * 2} and model._n_updates == 5


def test_the_likelier_action_is_the_one_that_did_better() -> None:
    model = small()
    buffer, callback = model.rollout_buffer, model._init_callback(None)
    assert model.env is not None
    model._setup_learn(32, None)
    model.collect_rollouts(model.env, callback, buffer, 8)
    buffer.advantages = torch.where(buffer.actions == 0, 1.0, -1.0)
    buffer.returns = buffer.values.clone()
    sequences = (buffer.observations, buffer.actions, buffer.state, buffer.episode_starts)
    before = model.policy.evaluate_sequences(*sequences).log_prob[buffer.actions == 0].mean()
    model.train()
    assert model.policy.evaluate_sequences(*sequences).log_prob[buffer.actions == 0].mean() > before


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryA2C.load(tmp_path / "model", device="cpu")
    assert loaded.config == model.config == A2CConfig(n_steps=8, batch_size=16)
    with pytest.raises(ValueError, match="a checkpoint of MemoryPPO, actual: MemoryA2C"):
        MemoryPPO.load(tmp_path / "model")
