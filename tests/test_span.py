"""The mask and the penalty on numbers worked out by hand."""

import math

import pytest
import torch
from expirespan.memory.attention import Positions, initial_age_bias, position_scores
from expirespan.memory.expire_span.attention import used_memories
from expirespan.memory.expire_span.slots import first_to_expire, outlived
from expirespan.memory.expire_span.span import (
    SpanPredictor,
    expire_mask,
    expiry_bias,
    initial_bias,
    lifetime,
    span_penalty,
    unclamped_mask,
)


def test_mask_is_one_until_the_span_and_falls_to_zero_over_the_ramp() -> None:
    mask = expire_mask(torch.tensor([[3.0]]), torch.tensor([[[0], [3], [4], [5], [6], [7], [8]]]), ramp=4.0)
    assert mask[0, :, 0].tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_a_memory_can_be_deleted_when_the_next_step_does_not_see_it() -> None:
    """With a span of 3 and a ramp of 4 it is visible until it is 6 steps old."""
    assert lifetime(torch.tensor([3.0, 2.001, 0.0]), ramp=4.0).tolist() == [7, 7, 4]
    # What rounds to a whole number is one, whatever its mask rounds to: 1 + (4 - 11) / 7 may be more than 0.
    assert lifetime(torch.tensor([4.0, 3.9999999]), ramp=7.0).tolist() == [11, 11]


def test_penalty_charges_only_memories_on_the_ramp() -> None:
    span = torch.tensor([[3.0, 10.0]])
    mask = expire_mask(span, torch.tensor([[[2, 2], [4, 4], [6, 11], [7, 12]]]), ramp=4.0)
    # memory 0 is on its ramp at ages 4 and 6, memory 1 at ages 11 and 12
    on_ramp = ((mask > 0) & (mask < 1)).float().sum(1)
    assert span_penalty(span, on_ramp, ramp=4.0).item() == pytest.approx((2 * 3 + 2 * 10) / 4)


def test_bias_is_the_logarithm_of_the_mask_with_its_gradient() -> None:
    span = torch.tensor([[3.0, 10.0, 0.5]], dtype=torch.float64, requires_grad=True)
    written, step = torch.tensor([[-5, -2, 0]]), torch.tensor([[0, 1]])
    visible = torch.tensor([[[True, True, True], [True, False, True]]])
    bias, mask = expiry_bias(unclamped_mask((span + written).unsqueeze(1), step.unsqueeze(2), ramp=4.0), visible)
    assert mask.tolist() == [[[0.5, 1, 1], [0.25, 0, 0.875]]]
    assert bias[0, 0].tolist() == pytest.approx([math.log(0.5), 0, 0])
    assert bias[0, 1, 1].item() == -math.inf
    (gradient,) = torch.autograd.grad(bias[bias.isfinite()].sum(), span)
    # d log m / de = 1 / (R m) on the ramp
    assert gradient.tolist()[0] == pytest.approx([1 / (4 * 0.5) + 1 / (4 * 0.25), 0, 1 / (4 * 0.875)])


def test_gradient_at_an_expired_memory_is_zero_not_nan() -> None:
    span = torch.tensor([[1.0]], requires_grad=True)
    long_ago = unclamped_mask(span.unsqueeze(1), torch.tensor([[[50]]]), ramp=4.0)
    bias, _ = expiry_bias(long_ago, torch.zeros(1, 1, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(torch.softmax(torch.cat([bias, torch.zeros(1, 1, 1)], 2), 2)[..., 0].sum(), span)
    assert gradient.item() == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_spans_start_at_the_initial_fraction(fraction: float) -> None:
    predictor = SpanPredictor(7, max_span=130.0, initial_fraction=fraction, pre_div=2.0)
    torch.testing.assert_close(predictor(torch.randn(2, 3, 7)), torch.full((2, 3), 130.0 * fraction))
    assert initial_bias(0.1) == pytest.approx(-math.log(9))


def test_position_scores_are_key_and_bias_of_the_age_and_one_bias_beyond_the_window() -> None:
    query = torch.tensor([[[[2.0, 3.0]]]])
    position = torch.tensor([[[1.0, 10.0], [100.0, 1000.0]]])  # ages 0 and 1
    positions = Positions(position, torch.tensor([[5.0, 7.0, 11.0]]))
    scores = position_scores(query, positions, torch.tensor([[[0, 1, 2, 500]]]))
    assert scores[0, 0, 0].tolist() == pytest.approx([302 / 2**0.5 + 5, 3020 / 2**0.5 + 7, 11, 11])


def test_half_of_the_heads_begin_with_the_newest_memories() -> None:
    assert initial_age_bias(1, 2).tolist() == [[0, 0, 0]]
    assert initial_age_bias(3, 2).tolist() == [[0, -1, -2], [0, 0, 0], [0, 0, 0]]
    assert initial_age_bias(4, 3).tolist() == [[0, -1, -2, -3], [0, -0.25, -0.5, -0.75], [0] * 4, [0] * 4]


def test_the_first_to_expire_is_the_one_that_all_others_outlive() -> None:
    torch.manual_seed(0)
    birth = torch.stack([torch.randperm(23)[:11] for _ in range(30)])
    expiry = birth + torch.randint(0, 7, (30, 11))  # many expire together
    live = torch.rand(30, 11) < 0.7
    first = first_to_expire(expiry, birth, live).squeeze(1)
    rows = torch.arange(30)
    assert live[rows, first].all()
    assert torch.equal(outlived(expiry, birth, live)[rows, first].sum(1), live.sum(1) - 1)


def test_a_memory_is_used_late_in_the_second_half_of_its_span() -> None:
    written, steps = torch.tensor([[0, 0, 0, 8]]), torch.tensor([[9, 10]])
    span = torch.tensor([[100.0, 19.0, 17.0, 1.0]])
    weights = torch.full((1, 2, 2, 4), 0.25)
    weights[0, 1] = torch.tensor([[0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.5, 0.9]])
    used, late = used_memories(weights, written, steps, span, ramp=4.0)
    assert used.tolist() == [[True, True, True, False]]  # the last is younger than the ramp
    assert late.tolist() == [[0, 1, 2, 0]]
