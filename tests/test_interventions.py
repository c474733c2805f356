"""Changed memories: what the operations on a state do, and what that does to an agent."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from expirespan.agents import MemoryPPO
from expirespan.analysis.evaluation import evaluate_policy
from expirespan.analysis.interventions import (
    STANDARD,
    SwapRelevant,
    _differences,
    action_changes,
    cut_spans,
    forget_relevant,
    forget_steps,
)
from expirespan.envs import CorridorVectorEnv
from expirespan.memory import ExpireSpan, ExpireSpanConfig, ExpireSpanState, Record
from gymnasium import spaces
from reference import randomize, reference_core
from torch import Tensor

ROWS, STEPS, WIDTH = 2, 13, 10
BASE = ExpireSpanConfig(layers=3, width=WIDTH, heads=2, ff_width=7, max_span=17.0, ramp=5.0, initial_span=0.4)


def made(config: ExpireSpanConfig = BASE) -> ExpireSpan:
    torch.manual_seed(2)
    core = ExpireSpan(config).double()
    randomize(core, 3)
    return core.eval()


def inputs(seed: int = 5, rows: int = ROWS, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    resets = torch.zeros(rows, steps, dtype=torch.bool)
    resets[:, 0] = True
    return torch.randn(rows, steps, WIDTH, generator=generator, dtype=torch.float64), resets


@torch.no_grad()
def step_by_step(core: ExpireSpan, x: Tensor, resets: Tensor, change: Any = lambda state: state) -> Tensor:
    state, ys = core.initial_state(len(x)), []
    for step in range(x.shape[1]):
        output = core(x[:, step : step + 1], state, resets[:, step : step + 1])
        ys.append(output.y)
        state = change(output.state)
    return torch.cat(ys, 1)


def test_forgetting_everything_is_having_no_memory() -> None:
    x, resets = inputs()
    forgetful = step_by_step(made(), x, resets, lambda state: state.forget(lambda birth: birth >= 0))
    torch.testing.assert_close(forgetful, step_by_step(made(replace(BASE, capacity=0)), x, resets))
    assert not torch.allclose(forgetful, step_by_step(made(), x, resets))


def test_forgetting_concerns_the_chosen_steps_and_layers_only() -> None:
    x, resets = inputs()
    core = made()
    with torch.no_grad():
        state = core(x[:, :3], core.initial_state(ROWS), resets[:, :3]).state
    after = state.forget(lambda birth: birth == 1, layers=[0, 2])
    assert [sorted(layer.birth[0][layer.live[0]].tolist()) for layer in after.layers] == [[0, 2], [0, 1, 2], [0, 2]]
    assert all(layer.live.all() for layer in state.layers)
    with pytest.raises(ValueError, match=r"`layers` to be from 0 to 2, actual: \[1, 3\]"):
        state.forget(lambda birth: birth == 1, layers=[3, 1])


def test_swapped_contents_act_for_the_other_row() -> None:
    x, resets = inputs(steps=1)
    core = made()
    after = core(x, core.initial_state(ROWS), resets).state
    written, everyone = after.time - 1, torch.ones(ROWS, dtype=torch.bool)
    rolled = tuple(memory.map(lambda tensor: tensor.roll(1, 0)) for memory in after.read(written))
    more = inputs(seed=7, rows=1, steps=3)[0].expand(ROWS, -1, -1)
    going_on = torch.zeros(ROWS, 3, dtype=torch.bool)
    plain = core(more, after, going_on).y
    torch.testing.assert_close(core(more, after.write(written, rolled, everyone), going_on).y, plain.flip(0))
    first_only = core(more, after.write(written, rolled, torch.tensor([True, False])), going_on).y
    torch.testing.assert_close(first_only, plain[1:].expand(ROWS, -1, -1))
    same = after.write(written, after.read(written), everyone)
    torch.testing.assert_close(core(more, same, going_on).y, plain)


def test_nothing_is_swapped_before_the_other_row_has_had_a_relevant_step() -> None:
    x, resets = inputs(steps=2)
    core, swap = made(), SwapRelevant()
    with torch.no_grad():
        first = core(x[:, :1], core.initial_state(ROWS), resets[:, :1]).state
        # Row 0 takes from row 1, whose step was not relevant.
        unchanged = swap(first, torch.tensor([True, False]))
        assert all(a.hidden.equal(b.hidden) for a, b in zip(unchanged.layers, first.layers, strict=True))
        second = core(x[:, 1:], unchanged, resets[:, 1:]).state
        after = swap(second, torch.tensor([False, True]))
    donated, taken = first.read(first.time - 1), after.read(after.time - 1)
    for old, new in zip(donated, taken, strict=True):
        torch.testing.assert_close(new.hidden[1], old.hidden[0])


def test_what_is_not_stored_is_neither_read_nor_written() -> None:
    core = made()
    empty = core.initial_state(ROWS)
    nothing, everyone = empty.read(empty.time), torch.ones(ROWS, dtype=torch.bool)
    assert [tuple(memory.hidden.shape) for memory in nothing] == [(ROWS, 1, WIDTH)] * 3
    assert not any(memory.live.any() for memory in nothing)
    x, resets = inputs(steps=3)
    state = core(x, empty, resets).state
    assert not any(memory.live.any() for memory in state.read(torch.tensor([3, -1])))
    for written, content in ((torch.tensor([1, 1]), nothing), (torch.tensor([5, 7]), state.read(torch.tensor([0, 1])))):
        after = state.write(written, content, everyone)
        assert all(a.hidden.equal(b.hidden) for a, b in zip(after.layers, state.layers, strict=True))


def test_writing_leaves_earlier_states_as_they_were() -> None:
    x, resets = inputs()
    core = made()

    def disturb(state: ExpireSpanState) -> ExpireSpanState:
        state.write(
            state.time - 1,
            [replace(memory, key_value=memory.key_value + 1) for memory in state.read(state.time - 1)],
            anyone,
        )
        return state

    anyone = torch.ones(ROWS, dtype=torch.bool)
    torch.testing.assert_close(step_by_step(core, x, resets, disturb), step_by_step(core, x, resets))


def test_cut_spans_are_those_of_the_reference() -> None:
    x, resets = inputs()
    core = made()
    before = core(x, core.initial_state(ROWS), resets, record=Record.TRACE)
    cut = core.cut(2.5)
    output = cut(x, cut.initial_state(ROWS), resets, record=Record.TRACE)
    torch.testing.assert_close(output.y, reference_core(core, x, resets, longest=2.5)[0])
    assert output.trace is not None and before.trace is not None
    for layer, uncut in zip(output.trace, before.trace, strict=True):
        assert layer.lifetime.max() == 8 < uncut.lifetime.max()  # ceil(2.5 + 5)
        assert layer.span.max() <= 2.5 < uncut.span.max()
    torch.testing.assert_close(output.trace[0].span, before.trace[0].span.clamp(max=2.5))
    torch.testing.assert_close(core(x, core.initial_state(ROWS), resets).y, before.y)
    torch.testing.assert_close(core.cut(1e9)(x, core.initial_state(ROWS), resets).y, before.y)
    assert (
        max(
            int(layer.lifetime.max())
            for layer in cut.cut(7.0)(x, cut.initial_state(ROWS), resets, record=Record.TRACE).trace
        )
        == 8
    )
    with pytest.raises(ValueError, match="`longest` to be at least 0, actual: -1"):
        core.cut(-1.0)


def agent(**memory: Any) -> MemoryPPO:
    settings = {"layers": 2, "width": 16, "heads": 2, "ff_width": 16, "max_span": 40.0, "ramp": 4.0} | memory
    env = CorridorVectorEnv(3, min_length=3, max_length=7)
    model = MemoryPPO("MemoryPolicy", env, n_steps=16, batch_size=16, policy_kwargs={"memory": settings}, seed=3)
    randomize(model.policy, 5)
    return model


def corridors(rows: int = 5) -> CorridorVectorEnv:
    return CorridorVectorEnv(rows, min_length=3, max_length=7, max_steps=11)


def test_differences_of_distributions() -> None:
    plain = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
    other = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]]))
    variation, divergence, switched = _differences(plain, other)
    assert variation.tolist() == pytest.approx([0.25, 0]) and switched.tolist() == [1, 0]
    # 1/4 ln(1/2) + 1/2 ln 2
    assert divergence.tolist() == pytest.approx([0.25 * np.log(2), 0], abs=1e-6)


def test_actions_change_with_the_memory_and_only_with_it() -> None:
    policy = agent().policy
    tried = {
        "nothing": lambda state, relevant: state,
        "never written": forget_steps([1000]),
        "first": forget_steps([0]),
        "relevant": forget_relevant(),
        "others": forget_relevant(False),
        "swapped": SwapRelevant(),
    }
    torch.manual_seed(3)
    changes = action_changes(policy, corridors(), 7, tried, deterministic=False)
    for name in ("nothing", "never written"):
        assert np.nanmax(changes[name].total_variation) < 1e-6 and not np.nansum(changes[name].switched)
    for name in ("first", "relevant", "others", "swapped"):
        assert changes[name].total_variation.shape[1] == 5
        assert np.nanmax(changes[name].total_variation) > 1e-3 and np.nanmax(changes[name].divergence) > 0
        assert np.nanmax(changes[name].total_variation[0]) < 1e-6  # the first step has no past
    np.testing.assert_allclose(changes["first"].total_variation[1], changes["relevant"].total_variation[1], atol=1e-6)
    lengths = (~np.isnan(changes["first"].switched)).sum(0)
    assert lengths.min() >= 1 and lengths.max() <= 11
    assert not np.isnan(np.diff(changes["first"].switched, axis=0)[: lengths.min() - 1]).any()


def test_evaluation_under_an_intervention() -> None:
    policy = agent().policy
    alone = evaluate_policy(agent(capacity=0).policy, corridors(), 11, 7)
    forgetful = evaluate_policy(policy, corridors(), 11, 7, intervene=lambda s, r: s.forget(lambda birth: birth >= 0))
    assert forgetful.steps.tolist() == alone.steps.tolist() and forgetful.returns.tolist() == alone.returns.tolist()
    assert forgetful.live.max() == 1
    without_others = evaluate_policy(policy, corridors(), 11, 7, intervene=forget_relevant(False))
    assert without_others.live.max() > 1
    assert evaluate_policy(policy, corridors(), 11, 7).live.max() >= without_others.live.max()


def test_cut_policy_leaves_the_policy_alone() -> None:
    policy = agent().policy
    full = evaluate_policy(policy, corridors(), 5, 7)
    cut = evaluate_policy(cut_spans(policy, 0.0), corridors(), 5, 7)
    assert cut.live.max() <= 4 < full.live.max()
    np.testing.assert_array_equal(evaluate_policy(policy, corridors(), 5, 7).live, full.live)


def test_interventions_that_make_no_sense_are_refused() -> None:
    policy = agent().policy
    with pytest.raises(ValueError, match=r"`steps` to be at least 0, actual: \[-3, 2\]"):
        forget_steps([2, -3])
    with pytest.raises(ValueError, match="`state` to have at least 2 rows to swap between, actual: 1"):
        evaluate_policy(policy, corridors(1), 1, 7, intervene=STANDARD["relevant steps swapped"]())
    policy.action_space = spaces.Box(0, 1, (2,))
    with pytest.raises(ValueError, match=r"`policy` to have a Discrete action space, actual: Box"):
        action_changes(policy, corridors(), 7, {})
