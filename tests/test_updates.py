"""An update of the policy is what its formulas give, written out here step by step."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.memory import Record
from expirespan.memory.expire_span.budget import SpanController
from expirespan.memory.expire_span.span import contrast, span_rent
from models import SMALL, corridor, rows_of
from torch import Tensor

ROWS, STEPS, COLUMNS = 7, 11, 2
MINIBATCHES = 4  # 7 columns in groups of 2, 2, 2 and 1
SETTINGS: dict[str, Any] = {
    "n_steps": STEPS,
    "batch_size": COLUMNS * STEPS,
    "learning_rate": 0.003,
    "anneal": False,
    "span_lr_scale": 0.13,
    "ent_coef": 0.17,
    "vf_coef": 0.7,
    "max_grad_norm": 0.03,
    "advantage_floor": 0.05,
    "normalize_value_loss": True,
    # Spans of 4 steps and less, so that the task moves them.
    "policy_kwargs": {"memory": SMALL["memory"] | {"initial_span": 0.1}},
    "seed": 3,
    "device": "cpu",
}
PULLS = [0.29, 0.11]


def literal_update(model: MemoryPPO | MemoryA2C, epochs: int, clip: float | None) -> dict[str, Tensor]:
    """The policy's weights after learning from the rollout, by the formulas."""
    policy, buffer = copy.deepcopy(model.policy), copy.deepcopy(model.rollout_buffer)
    policy.set_training_mode(True)
    named = dict(policy.named_parameters())
    spans = {name: weight for name, weight in named.items() if ".span." in name}
    others = [weight for name, weight in named.items() if name not in spans]
    groups = [{"params": others, "lr": 0.003}, {"params": list(spans.values()), "lr": 0.003 * 0.13}]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-8)
    spread = ((buffer.advantages - buffer.advantages.mean()) ** 2).mean().sqrt()
    buffer.advantages = (buffer.advantages - buffer.advantages.mean()) / max(spread.item(), 0.05)
    unit = ((buffer.returns - buffer.returns.mean()) ** 2).mean().sqrt().clamp_min(0.05)
    for _ in range(epochs):
        for batch in buffer.get(COLUMNS * STEPS):
            now = policy.evaluate_sequences(
                batch.observations, batch.actions, batch.state, batch.episode_starts, record=Record.FACTS
            )
            gain = batch.advantages
            if clip is None:
                objective = now.log_prob * gain
            else:
                ratio = (now.log_prob - batch.old_log_prob).exp()
                objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
            error = (now.values - batch.returns) ** 2
            loss = -objective.mean() + 0.7 * error.mean() / unit - 0.17 * now.entropy.mean()
            charged = torch.zeros(())
            for layer in now.core.facts:
                idle, used = layer.counts[:2].tolist()
                charged = charged + layer.idle_rent - layer.used_rent * idle / max(used, 1)
            rent = torch.autograd.grad(charged, list(spans.values()), retain_graph=True)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(named.values(), 0.03)
            adam.step()
            share = gain.numel() / (epochs * STEPS * ROWS)
            for layer, pull in enumerate(PULLS):
                chosen = [name.startswith(f"core.layers.{layer}.") for name in spans]
                slope = [part for part, here in zip(rent, chosen, strict=True) if here]
                length = sum((part**2).sum() for part in slope) ** 0.5
                weights = [weight for weight, here in zip(spans.values(), chosen, strict=True) if here]
                for weight, part in zip(weights, slope, strict=True):
                    weight.data -= pull * share * part / length / (policy.core.width + 1) ** 0.5
    return {name: weight.detach() for name, weight in named.items()}


@pytest.mark.parametrize(
    ("algorithm", "more", "epochs", "clip"),
    [(MemoryPPO, {"n_epochs": 2, "clip_range": 0.13, "target_kl": None}, 2, 0.13), (MemoryA2C, {}, 1, None)],
)
def test_an_update_is_what_the_formulas_give(
    algorithm: type[MemoryPPO | MemoryA2C], more: dict[str, Any], epochs: int, clip: float | None
) -> None:
    model = algorithm("MemoryPolicy", corridor(ROWS), **SETTINGS, **more)
    model.learn(STEPS * ROWS)  # so that memories are stored, and nothing is at its first value
    model.policy.optimizer.state.clear()
    callback = model._init_callback(None)
    model.collect_rollouts(rows_of(model), callback, model.rollout_buffer, STEPS)
    assert len(list(model.rollout_buffer.get(model.batch_size))) == MINIBATCHES
    assert isinstance(model.controller, SpanController)
    model.controller.pulls = list(PULLS)
    torch.manual_seed(5)
    expected = literal_update(model, epochs, clip)
    torch.manual_seed(5)
    model.train()
    for name, weight in model.policy.named_parameters():
        torch.testing.assert_close(
            weight.detach(), expected[name], rtol=1e-3, atol=3e-5, msg=partial("{}: {}".format, name)
        )


def test_values_and_actions_begin_near_nothing() -> None:
    policy = MemoryPPO("MemoryPolicy", corridor(2), policy_kwargs=SMALL, seed=1, device="cpu").policy
    assert isinstance(policy.action_net, torch.nn.Linear)
    for head in (policy.value_net, policy.action_net):
        lengths = head.weight.norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.01))
        assert not head.bias.any()


def test_rent_is_the_logarithm_of_one_and_the_span_in_ramps() -> None:
    span, seen = torch.tensor([[3.0, 12.0]]), torch.tensor([[5.0, 2.0]])
    assert span_rent(span, seen, ramp=4.0).item() == pytest.approx(5 * 0.5596158 + 2 * 1.3862944)


def test_memories_in_use_are_credited_with_as_much_as_the_others_are_charged() -> None:
    span, seen = torch.tensor([[4.0, 4.0, 12.0]]), torch.tensor([[3.0, 5.0, 2.0]])
    idle, used = (span_rent(span, seen * torch.tensor(chosen), ramp=4.0) for chosen in ([1, 1, 0], [0, 0, 1]))
    charged, credited = (3 + 5) * 0.6931472, 8 * 1.3862944  # log 2 and log 4; 8 steps seen on either side
    assert contrast(idle, used, 8.0, 2.0).item() == pytest.approx(charged - credited)
    assert contrast(idle, torch.zeros(()), 8.0, 0.0).item() == idle.item()
