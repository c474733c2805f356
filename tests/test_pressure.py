"""When the budget pulls on the spans, and how far."""

import json
import re

import pytest
import torch
from expirespan.memory import ExpireSpan, ExpireSpanConfig, Record
from expirespan.memory.expire_span.budget import (
    LayerFigures,
    PressureConfig,
    SpanPressure,
    check_budget,
    smallest_budget,
)
from reference import randomize

MANY = 10**18
"""Written memories of which one in use is no share."""


def note(
    pressure: SpanPressure,
    live: list[float],
    used: int = 1,
    written: int = MANY,
    longest: float = 1.0,
    typical: float = 3.0,
    progress: float = 0.0,
) -> None:
    figures = {"used": used, "late": 0, "written": written, "longest": longest, "typical": typical}
    pressure.update([LayerFigures(live=layer, **figures) for layer in live], progress)


def test_each_layer_is_pulled_while_it_holds_more_than_the_budget() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=20.0, budget_pull=0.4))
    assert pressure.pulls == []
    note(pressure, [60.0, 12.0])
    assert pressure.pulls == [0.4, 0.0]
    for _ in range(20):
        note(pressure, [15.0, 12.0])
    assert pressure.pulls == []


def test_the_pull_follows_the_excess_and_rests_once_the_budget_was_met() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=20.0, budget_pull=0.4))
    note(pressure, [30.0])
    assert pressure.pulls == pytest.approx([0.2])
    note(pressure, [2.0])
    for _ in range(12):
        note(pressure, [2.0])
    assert pressure.pulls == []
    for _ in range(40):
        note(pressure, [90.0])
    assert pressure.pulls == []
    note(pressure, [90.0], progress=0.025)
    assert pressure.pulls == pytest.approx([0.04])


def test_memories_that_are_in_use_for_the_most_part_are_not_pulled() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=20.0, budget_pull=0.4))
    for used, pull in ((0, 0.4), (10, 0.3), (30, 0.1), (40, 0.0), (80, 0.0)):
        note(pressure, [60.0], used=used, written=80)
        assert sum(pressure.pulls) == pytest.approx(pull)


def test_the_pull_comes_back_where_a_layer_stays_above_its_budget() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=20.0, budget_pull=0.4))
    for _ in range(20):
        note(pressure, [2.0, 30.0], progress=0.5)
    strengths = []
    for progress in (0.5, 0.625, 0.75, 0.9):
        for _ in range(40):
            note(pressure, [90.0, 30.0], progress=progress)
        strengths.append(pressure.pulls[0])
    # The smoothed count is above the budget a few updates after the layer last held it, all at 0.5 of the training.
    assert strengths == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert pressure.pulls[1] == pytest.approx(0.2)  # never met
    strengths = []
    for progress in (0.4, 0.525, 0.65):  # resumed with a larger total
        note(pressure, [90.0, 30.0], progress=progress)
        strengths.append(pressure.pulls[0])
    assert strengths == pytest.approx([0.0, 0.2, 0.4])


def test_a_constant_weight_is_constant_and_no_budget_is_no_pull() -> None:
    constant, free = SpanPressure(PressureConfig(penalty_weight=1e-5)), SpanPressure(PressureConfig(memory_budget=None))
    for pressure in (constant, free):
        note(pressure, [900.0, 900.0])
        assert pressure.pulls == []
    assert (constant.weight, free.weight) == (1e-5, 0.0)


def test_state_survives_json() -> None:
    pressure, other = SpanPressure(PressureConfig()), SpanPressure(PressureConfig())
    note(pressure, [60.0, 21.0])
    other.load_state_dict(json.loads(json.dumps(pressure.state_dict())))
    for _ in range(9):
        note(pressure, [15.0, 21.0])
        note(other, [15.0, 21.0])
        assert pressure.pulls == other.pulls
    note(pressure, [60.0, 60.0])
    without = SpanPressure(PressureConfig(memory_budget=None))
    without.load_state_dict(pressure.state_dict())
    assert pressure.pulls and not without.pulls


@pytest.mark.parametrize("pre_div", [1.0, 3.0])
def test_shortening_moves_a_typical_logit_by_the_pull(pre_div: float) -> None:
    torch.manual_seed(1)
    core = ExpireSpan(ExpireSpanConfig(width=32, ff_width=7, max_span=50.0, pre_div=pre_div)).double()
    randomize(next(core.stack()).feed_forward, 2)
    same = torch.randn(1, 1, 32, dtype=torch.float64).expand(2, 11, 32)  # one memory, over and over
    resets = torch.zeros(2, 11, dtype=torch.bool)
    controller = core.controller(PressureConfig())
    controller.pulls = [0.25, 0.0]
    assert controller.needs == Record.FACTS
    before = core(same, core.initial_state(2), resets, record=Record.FACTS | Record.TRACE)
    controller.observe(before)
    controller.step(1.0)
    after = core(same, core.initial_state(2), resets, record=Record.TRACE)

    def logits(trace) -> list[float]:
        return [torch.log(layer.span / (50 - layer.span)).mean().item() for layer in trace]

    changes = [new - old for new, old in zip(logits(after.trace), logits(before.trace), strict=True)]
    assert changes[0] == pytest.approx(-0.25, rel=0.2 if pre_div == 1 else 0.5)
    assert changes[1] == 0


def test_a_layer_that_holds_little_because_episodes_are_short_has_not_met_its_budget() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=10.0, budget_pull=0.5))
    for live in (3.0, 7.0, 60.0, 60.0, 60.0):
        note(pressure, [live], typical=2000.0)
    assert pressure.pulls == [0.5]


def test_the_pull_waits_for_a_use_of_memory_before_it_takes_the_longest_spans() -> None:
    pressure = SpanPressure(PressureConfig(memory_budget=10.0, budget_pull=0.5))
    note(pressure, [60.0], used=0, longest=0.3)
    assert pressure.pulls == [0.5]
    note(pressure, [60.0], used=0, longest=0.2)
    assert pressure.pulls == []
    note(pressure, [60.0], used=2, longest=0.2)
    assert pressure.pulls == [0.5]
    note(pressure, [60.0], used=0, longest=0.2, progress=0.3)
    assert pressure.pulls == [0.5]


def test_what_is_used_late_is_lengthened_in_proportion_up_to_one_in_fifty() -> None:
    pressure = SpanPressure(PressureConfig(late_pull=0.4))
    pulls = [pressure.counterpull(used, late) for used, late in ((200.0, 0.0), (200.0, 1.0), (200.0, 9.0), (0.0, 0.0))]
    assert pulls == pytest.approx([0.0, 0.1, 0.4, 0.0])


def test_lengthening_without_a_budget_is_refused() -> None:
    message = re.escape("Expect `late_pull` to be 0 where no memory budget is kept, actual: 0.3")
    with pytest.raises(ValueError, match=message):
        PressureConfig(late_pull=0.3, memory_budget=None)
    with pytest.raises(ValueError, match=message):
        PressureConfig(late_pull=0.3, penalty_weight=1e-6)


@pytest.mark.parametrize(
    ("ramp", "capacity", "least"), [(16.0, None, 16), (15.5, None, 16), (0.5, None, 1), (16.0, 3, 4), (16.0, 0, 1)]
)
def test_a_budget_that_the_ramp_makes_impossible_is_refused_with_the_smallest_possible_one(
    ramp: float, capacity: int | None, least: int
) -> None:
    memory = ExpireSpanConfig(ramp=ramp, capacity=capacity)
    assert smallest_budget(memory) == least
    check_budget(PressureConfig(memory_budget=float(least)), memory)
    message = (
        f"Expect `memory_budget` to be at least {least}, which a layer holds with a ramp of {ramp:g} steps, actual"
    )
    with pytest.raises(ValueError, match=message):
        check_budget(PressureConfig(memory_budget=least - 0.25), memory)
    check_budget(PressureConfig(memory_budget=None), memory)
    check_budget(PressureConfig(penalty_weight=1e-6), memory)


def test_no_layer_holds_less_than_the_smallest_budget_however_short_its_spans_are() -> None:
    core = ExpireSpan(ExpireSpanConfig(layers=1, width=8, heads=1, ff_width=7, ramp=3.5)).cut(0.0)
    x, resets = torch.randn(1, 12, 8), torch.zeros(1, 12, dtype=torch.bool)
    output = core(x, core.initial_state(1), resets, record=Record.TRACE)
    assert output.trace is not None
    assert output.trace[0].live[0, 4:].tolist() == [smallest_budget(core.config)] * 8


def test_a_budget_beside_the_papers_weight_is_refused() -> None:
    message = "Expect `memory_budget` not to be given beside `penalty_weight`, actual: 30"
    with pytest.raises(ValueError, match=message):
        PressureConfig(memory_budget=30.0, penalty_weight=1e-6)


def test_going_up_the_overdue_rent_lengthens_the_spans_of_memories_used_late() -> None:
    torch.manual_seed(0)
    core = ExpireSpan(ExpireSpanConfig(layers=1, width=8, heads=1, max_span=100.0, ramp=2.0, initial_span=0.1))
    x, resets = torch.randn(3, 40, 8), torch.zeros(3, 40, dtype=torch.bool)
    layer = next(core.stack())
    with torch.no_grad():
        layer.query_key_value.weight *= 3  # sharp attention
    output = core(x, core.initial_state(3), resets, record=Record.FACTS)
    (facts,) = output.facts
    _, _, used, late = facts.counts.tolist()
    assert 0 < late <= used
    before = [parameter.clone() for parameter in layer.span.parameters()]
    controller = core.controller(PressureConfig(late_pull=0.1, memory_budget=2.0))
    controller.observe(output)
    controller.step(1.0)
    with torch.no_grad():
        hidden = layer.norm(x)
        longer = layer.span(hidden)
        for parameter, old in zip(layer.span.parameters(), before, strict=True):
            parameter.copy_(old)
        assert (longer > layer.span(hidden)).float().mean() > 0.9
