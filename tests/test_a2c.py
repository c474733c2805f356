"""What A2C has of its own; what it shares with PPO is tested there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from expirespan.agents import A2CConfig, MemoryA2C, MemoryPPO
from expirespan.agents.rollout import SequenceRolloutBuffer
from models import SMALL, corridor, rows_of


def small(**arguments: Any) -> MemoryA2C:
    settings = {"n_steps": 8, "batch_size": 16, "policy_kwargs": SMALL, "seed": 3, "device": "cpu"}
    return MemoryA2C("MemoryPolicy", corridor(), **(settings | arguments))


def collect(model: MemoryA2C) -> SequenceRolloutBuffer:
    _, callback = model._setup_learn(32, None)
    model.collect_rollouts(rows_of(model), callback, model.rollout_buffer, 8)
    return model.rollout_buffer


def test_every_step_of_a_rollout_is_learned_from_once() -> None:
    model = small()
    model.learn(8 * 4 * 5)
    steps = [slot["step"].item() for slot in model.policy.optimizer.state.values()]
    assert set(steps) == {5 * 2} and model._n_updates == 5


def test_the_likelier_action_is_the_one_that_did_better() -> None:
    model = small()
    buffer = collect(model)
    buffer.advantages = torch.where(buffer.actions == 0, 1.0, -1.0)
    buffer.returns = buffer.values.clone()
    sequences = (buffer.observations, buffer.actions, buffer.state, buffer.episode_starts)
    before = model.policy.evaluate_sequences(*sequences).log_prob[buffer.actions == 0].mean()
    model.train()
    assert model.policy.evaluate_sequences(*sequences).log_prob[buffer.actions == 0].mean() > before


@pytest.mark.parametrize("anneal", [True, False])
def test_the_entropy_bonus_falls_with_what_is_left_of_training(anneal: bool) -> None:
    model = small(batch_size=32, anneal=anneal, ent_coef=0.25)
    buffer = collect(model)
    buffer.advantages, buffer.returns = torch.zeros_like(buffer.advantages), buffer.values.clone()
    model._current_progress_remaining = 0.5
    model.train()
    logged = model.logger.name_to_value
    bonus = -logged["train/entropy_loss"] * 0.25 * (0.5 if anneal else 1)
    assert bonus > 0 and logged["train/loss"] == pytest.approx(-bonus, abs=1e-6)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = small()
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = MemoryA2C.load(tmp_path / "model", device="cpu")
    assert loaded.config == model.config == A2CConfig(n_steps=8, batch_size=16)
    with pytest.raises(ValueError, match="a checkpoint of MemoryPPO, actual: MemoryA2C"):
        MemoryPPO.load(tmp_path / "model")
