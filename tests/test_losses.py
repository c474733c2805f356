"""Advantages and losses on numbers worked out by hand."""

import pytest
import torch
from expirespan.agents.learn.losses import clipped_surrogate, gae, normalized_advantages, policy_gradient, value_loss


def test_gae_stops_at_the_end_of_an_episode() -> None:
    rewards, values = torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([[0.5], [1.0], [3.0]])
    starts = torch.tensor([[False], [False], [True]])  # an episode ended with step 1
    advantages = gae(rewards, values, torch.tensor([4.0]), starts, torch.tensor([False]), gamma=0.5, gae_lambda=0.25)
    last = 2 + 0.5 * 4 - 3
    middle = 0 - 1.0
    first = (1 + 0.5 * 1.0 - 0.5) + 0.5 * 0.25 * middle
    assert advantages[:, 0].tolist() == [first, middle, last]


def test_gae_takes_nothing_from_after_a_last_step_that_ended() -> None:
    advantages = gae(
        torch.tensor([[1.0, 1.0]]),
        torch.tensor([[0.0, 0.0]]),
        torch.tensor([8.0, 8.0]),
        torch.tensor([[False, False]]),
        torch.tensor([True, False]),
        gamma=0.5,
        gae_lambda=0.9,
    )
    assert advantages.tolist() == [[1, 5]]


def test_normalised_advantages_are_not_blown_up_beyond_the_floor() -> None:
    wide, narrow = torch.tensor([[-2.0], [0.0], [2.0]]), torch.tensor([[-0.002], [0.0], [0.002]])
    assert normalized_advantages(wide, 0.1).std(correction=0).item() == pytest.approx(1)
    assert normalized_advantages(narrow + 5, 0.1).squeeze().tolist() == pytest.approx([-0.02, 0, 0.02], abs=1e-5)


def test_policy_gradient_weighs_log_probabilities_with_advantages() -> None:
    log_prob = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    loss = policy_gradient(log_prob, torch.tensor([[3.0], [-5.0]]))
    loss.backward()
    assert loss.item() == -(-3 + 10) / 2
    assert log_prob.grad is not None and log_prob.grad.squeeze().tolist() == [-1.5, 2.5]


def test_surrogate_takes_the_worse_of_clipped_and_unclipped() -> None:
    ratio, advantages = torch.tensor([[1.5, 0.5, 1.5, 0.5]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    expected = -(1.2 + 0.5 - 1.5 - 0.8) / 4
    assert clipped_surrogate(ratio, advantages, 0.2).item() == pytest.approx(expected)


def test_value_loss_with_and_without_a_clip_range() -> None:
    values, old, returns = torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert value_loss(values, old, returns, None).item() == 1
    assert value_loss(values, old, returns, 0.5).item() == pytest.approx(2.5**2)
