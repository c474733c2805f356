"""Parts of the policy: the categorical distribution, and views that are embedded once."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from expirespan.agents.actions import LeanCategorical, environment_actions
from expirespan.agents.encoders import distinct_rows
from models import SMALL, small
from torch.distributions import Categorical


def test_the_distribution_is_torchs() -> None:
    torch.manual_seed(1)
    logits = torch.randn(11, 5)
    logits[2, 3] = -torch.inf  # ruled out
    ours, theirs = LeanCategorical(5).proba_distribution(logits), Categorical(logits=logits)
    assert ours.proba_distribution(logits) is ours  # as SB3's
    actions = theirs.sample()
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), theirs.probs.argmax(1))
    many = LeanCategorical(5).proba_distribution(logits.repeat(20_000, 1)).sample().view(-1, 11)
    shares = torch.nn.functional.one_hot(many, 5).float().mean(0)
    torch.testing.assert_close(shares, theirs.probs, atol=0.02, rtol=0)
    assert shares[2, 3] == 0


def test_each_distinct_row_is_found_once() -> None:
    torch.manual_seed(1)
    rows = torch.randint(0, 264, (40, 9)).repeat(5, 1)[torch.randperm(200)]
    first, number = distinct_rows(rows)
    assert len(first) == 40
    assert torch.equal(rows[first][number], rows)


def test_rows_that_share_a_sum_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expirespan.agents.encoders.SPREAD", 1)
    rows = torch.tensor([[2, 0], [0, 2], [2, 0]])
    first, number = distinct_rows(rows)
    assert torch.equal(rows[first][number], rows)


def test_a_policy_can_be_copied_after_training() -> None:
    model = small()
    model.learn(16 * 4)
    copied = deepcopy(model.policy)
    assert torch.equal(copied.value_net.weight, model.policy.value_net.weight)


def test_training_stops_where_gradients_are_not_finite() -> None:
    model = small()
    model.policy.value_net.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="finite gradients"):
        model.learn(16 * 4)


@pytest.mark.parametrize("more", [{}, {"share_features_extractor": False}, {"net_arch": {"pi": [5], "vf": [7]}}])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_predict_without_values_takes_the_actions_that_act_does(more: dict[str, Any], env: str) -> None:
    policy = small(env, batch_size=None, policy_kwargs=SMALL | more).policy
    obs = policy.observation_space.sample()[None]
    start, state = torch.ones(1, dtype=torch.bool), policy.initial_state(1)
    for _ in range(3):
        torch.manual_seed(1)
        with torch.no_grad():
            wanted = policy.act(torch.as_tensor(obs), state, start)
        torch.manual_seed(1)
        actions, after = policy.predict(obs, state, start.numpy())
        np.testing.assert_array_equal(actions, environment_actions(policy, wanted.actions))
        assert after.time.tolist() == wanted.state.time.tolist()
        state, start = wanted.state, torch.zeros(1, dtype=torch.bool)
    assert policy.device == torch.device("cpu") and not policy.training
