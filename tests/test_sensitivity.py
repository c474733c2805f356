"""Which past steps matter, against finite differences of an agent that acts step by step and deletes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from expirespan.agents import MemoryPPO
from expirespan.analysis.sensitivity import input_sensitivity, policy_sensitivity, span_agreement
from expirespan.envs import CorridorVectorEnv, make_single
from expirespan.memory import ExpireSpan, ExpireSpanConfig, GRUConfig, MemoryCore, TransformerXLConfig
from reference import randomize
from torch import Tensor, nn

STEPS, WIDTH = 7, 6
SHORT = ExpireSpanConfig(layers=2, width=WIDTH, heads=2, ff_width=5, max_span=4.0, ramp=2.0, initial_span=0.3)


def cores() -> list[MemoryCore[Any]]:
    torch.manual_seed(2)
    made: list[MemoryCore[Any]] = [
        config.build().double()
        for config in (SHORT, GRUConfig(width=WIDTH), TransformerXLConfig(width=WIDTH, heads=2, window=2))
    ]
    for core in made:
        randomize(core, 3)
    return [core.eval() for core in made]


@torch.no_grad()
def acted(core: MemoryCore[Any], x: Tensor, weights: Tensor) -> np.ndarray:
    """A quantity at each step, [T], the core being called step by step."""
    state, found = core.initial_state(1), []
    for step in range(len(x)):
        output = core(x[None, step : step + 1], state, torch.tensor([[step == 0]]))
        found.append((output.y[0, 0].tanh() @ weights).item())
        state = output.state
    return np.array(found)


@pytest.mark.parametrize("core", cores(), ids=["expire-span", "gru", "transformer-xl"])
def test_sensitivity_agrees_with_finite_differences_of_acting(core: MemoryCore[Any]) -> None:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(STEPS, WIDTH, generator=generator, dtype=torch.float64)
    weights, small = torch.linspace(-1, 2, WIDTH, dtype=torch.float64), 1e-6
    slopes = np.zeros((STEPS, STEPS, WIDTH))
    for step in range(STEPS):
        for feature in range(WIDTH):
            moved = torch.zeros_like(x)
            moved[step, feature] = small
            slopes[:, step, feature] = (acted(core, x + moved, weights) - acted(core, x - moved, weights)) / (2 * small)
    steps = [3, 0, 6]
    found = input_sensitivity(core, x, lambda y: [y.tanh() @ weights, 2 * (y.tanh() @ weights)], steps)
    assert found.shape == (2, 3, STEPS)
    np.testing.assert_allclose(found[0], np.linalg.norm(slopes, axis=2)[steps], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found[1], 2 * found[0])
    assert not found[0, 0, 4:].any() and not found[0, 1, 1:].any()  # nothing depends on what comes later
    assert (found[0, 2, 1:] > 0).any()


def test_deleted_memories_do_not_matter() -> None:
    torch.manual_seed(2)
    core = ExpireSpan(ExpireSpanConfig(layers=1, width=WIDTH, heads=2, ff_width=5, max_span=4.0, ramp=2.0)).double()
    nn.init.constant_(core.layers[0].span.bias, math.log(1 / 3))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]  # a ModuleList
    x = torch.randn(STEPS, WIDTH, dtype=torch.float64)
    found = input_sensitivity(core.eval(), x, lambda y: [y[:, 0]], [6])[0, 0]
    # spans of 1 and a ramp of 2: live for 3 steps, the last three of which are steps 4, 5 and 6
    assert (found[4:] > 0).all() and not found[:4].any()


def agent() -> MemoryPPO:
    settings = {"layers": 2, "width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 4.0}
    env = CorridorVectorEnv(3, min_length=3, max_length=7)
    return MemoryPPO("MemoryPolicy", env, n_steps=16, batch_size=16, policy_kwargs={"memory": settings}, seed=3)


def test_sensitivity_of_an_agent() -> None:
    policy = agent().policy
    assert isinstance(policy.action_net, nn.Linear)
    nn.init.orthogonal_(policy.action_net.weight)
    env = make_single("expirespan/CorridorShort-v0")
    observations = [env.reset(seed=5)[0]] + [env.step(0)[0] for _ in range(4)]
    found = policy_sensitivity(policy, observations, np.zeros(5, dtype=np.int64))
    assert found.steps.tolist() == [0, 1, 2, 3, 4]
    for matrix in (found.value, found.action):
        assert matrix.shape == (5, 5) and not np.triu(matrix, 1).any() and (np.diag(matrix) > 0).all()
    last = policy_sensitivity(policy, observations, [0] * 5, steps=[4])
    np.testing.assert_allclose(last.action[0], found.action[4])
    for steps in ([], [5], [-1]):
        with pytest.raises(ValueError, match="`steps` to be one or more from 0 to 4, actual:"):
            policy_sensitivity(policy, observations, [0] * 5, steps=steps)
    with pytest.raises(ValueError, match="as many `observations` as `actions`, at least 1, actual: 5 and 4"):
        policy_sensitivity(policy, observations, [0] * 4)


def test_agreement_with_the_spans() -> None:
    sensitivity = np.array([4.0, 1, 2, 1, 9])
    span, deleted = np.array([50.0, 3, 2, 1, 8]), np.array([5, 4, 5, 4, 5])
    found = span_agreement(sensitivity, span, deleted, 4)
    # ranks 4, 1.5, 3, 1.5 and 4, 3, 2, 1: products of the distances from 2.5
    assert found.rank_correlation == pytest.approx((2.25 - 0.5 - 0.25 + 1.5) / math.sqrt(4.5 * 5))
    assert found.share_live == 0.75
    assert math.isnan(span_agreement(np.zeros(5), span, deleted, 4).share_live)
    with pytest.raises(ValueError, match=r"one shape, actual: \(5,\), \(3,\) and \(5,\)"):
        span_agreement(sensitivity, span[:3], deleted, 4)
    with pytest.raises(ValueError, match="`steps` to be one or more from 0 to 4"):
        span_agreement(sensitivity, span, deleted, 5)
