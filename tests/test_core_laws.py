"""The laws that hold for every core, in float64, on random weights, inputs and resets; computed by torch and in C.

Law 6, acting equals training, concerns the policy and stands in test_ppo.py.
"""

from dataclasses import replace

import pytest
import torch
from expirespan.memory import ExpireSpan, ExpireSpanConfig, ExpireSpanState, Record
from expirespan.memory.expire_span import compiled
from expirespan.memory.expire_span.slots import SLACK
from reference import randomize, reference_core
from torch import Tensor

ROWS, STEPS, WIDTH = 3, 29, 10
BASE = ExpireSpanConfig(layers=2, width=WIDTH, heads=2, ff_width=7, max_span=23.0, ramp=5.0, initial_span=0.3)
CORES = {
    "plain": BASE,
    "post-norm": replace(BASE, pre_norm=False),
    "positions": replace(BASE, position_window=11),
    "capacity 3": replace(BASE, capacity=3),
    "capacity 7": replace(BASE, capacity=7, max_span=47.0, initial_span=0.6),
    "capacity 11": replace(BASE, capacity=11, max_span=47.0, initial_span=0.8),
    "capacity 9, broken ramp": replace(BASE, capacity=9, max_span=47.0, initial_span=0.6, ramp=4.2),
    "capacity 1": replace(BASE, capacity=1),
    "no memory": replace(BASE, capacity=0),
    "pre_div": replace(BASE, pre_div=3.0, layers=3, heads=5),
    "long spans": replace(BASE, max_span=97.0, initial_span=0.6),
    "short ramp": replace(BASE, ramp=0.5),
}


@pytest.fixture(params=[None, *compiled.builds()[:1]], ids=lambda path: path.name.split(".")[0] if path else "torch")
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = request.param and compiled.load(request.param)
    monkeypatch.setattr(compiled, "library", lambda: chosen)


pytestmark = pytest.mark.usefixtures("computed_by")


@pytest.fixture(params=CORES.values(), ids=list(CORES))
def core(request: pytest.FixtureRequest) -> ExpireSpan:
    torch.manual_seed(2)
    made = ExpireSpan(request.param).double()
    randomize(made, 3)
    return made


def episode_data(seed: int = 5, rows: int = ROWS, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, steps, WIDTH, generator=generator, dtype=torch.float64)
    resets = torch.rand(rows, steps, generator=generator) < 0.06
    resets[:, 0] = True
    return x, resets


def stored(state: ExpireSpanState) -> list[list[dict[int, Tensor]]]:
    """[layer][row]: hidden by time of birth, of the live memories."""
    return [
        [
            {
                int(birth): layer.hidden[row, slot]
                for slot, birth in enumerate(layer.birth[row])
                if layer.live[row, slot]
            }
            for row in range(len(layer.birth))
        ]
        for layer in state.layers
    ]


def assert_same_memories(a: ExpireSpanState, b: ExpireSpanState) -> None:
    torch.testing.assert_close(a.time, b.time)
    for rows_a, rows_b in zip(stored(a), stored(b), strict=True):
        for row_a, row_b in zip(rows_a, rows_b, strict=True):
            assert row_a.keys() == row_b.keys()
            for birth in row_a:
                torch.testing.assert_close(row_a[birth], row_b[birth])


@pytest.mark.parametrize("split", [[1] * STEPS, [13, 16], [1, 2, 3, 5, 7, 11]])
def test_any_split_is_the_same(core: ExpireSpan, split: list[int]) -> None:
    x, resets = episode_data()
    whole = core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)
    state, ys, penalty, evicted, live = core.initial_state(ROWS), [], torch.zeros((), dtype=torch.float64), [], []
    for part, reset in zip(x.split(split, 1), resets.split(split, 1), strict=True):
        output = core(part, state, reset, record=Record.STATE | Record.LOSSES | Record.TRACE)
        state, penalty = output.state, penalty + output.losses["penalty"]
        ys.append(output.y)
        evicted.append([layer.evicted for layer in output.trace])
        live.append([layer.live for layer in output.trace])
    torch.testing.assert_close(torch.cat(ys, 1), whole.y)
    torch.testing.assert_close(penalty, whole.losses["penalty"])
    assert_same_memories(state, whole.state)
    for number, layer in enumerate(whole.trace):
        torch.testing.assert_close(torch.cat([parts[number] for parts in evicted], 1), layer.evicted)
        torch.testing.assert_close(torch.cat([parts[number] for parts in live], 1), layer.live)


def test_acting_is_the_same_as_reading_the_whole(core: ExpireSpan) -> None:
    x, resets = episode_data()
    whole = core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)
    state, ys, traces = core.initial_state(ROWS), [], []
    with torch.no_grad():
        for step in range(STEPS):
            now = slice(step, step + 1)
            output = core(x[:, now], state, resets[:, now], record=Record.STATE | Record.TRACE)
            plain = core(x[:, now], state, resets[:, now])
            torch.testing.assert_close(plain.y, output.y)
            assert_same_memories(plain.state, output.state)
            state = output.state
            ys.append(output.y)
            traces.append(output.trace)
    torch.testing.assert_close(torch.cat(ys, 1), whole.y)
    assert_same_memories(state, whole.state)
    for number, layer in enumerate(whole.trace):
        for name in ("span", "lifetime", "live", "evicted"):
            by_step = torch.cat([getattr(trace[number], name) for trace in traces], 1)
            torch.testing.assert_close(by_step, getattr(layer, name))


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("stepped", [False, True])
def test_stored_memories_are_inputs_that_all_weights_are_applied_to_anew(pre_norm: bool, stepped: bool) -> None:
    """After new weights a memory is what they make of the layer's input of then, gradients of the norm included."""
    core = ExpireSpan(replace(BASE, layers=1, initial_span=0.9, max_span=1000.0, pre_norm=pre_norm)).double()
    x, resets = episode_data()
    resets[:, 1:] = False
    state = core.initial_state(ROWS)
    with torch.no_grad():
        for step in range(STEPS) if stepped else [slice(None)]:
            at = slice(step, step + 1) if isinstance(step, int) else step
            state = core(x[:, at], state, resets[:, at]).state
    randomize(core, 5)
    (memory,), layer = core.refresh(state.compact()).layers, next(core.stack())
    inner = layer.norm(x) if pre_norm else x
    key_value, span = layer.query_key_value(inner)[..., WIDTH:], layer.span(inner)
    order = memory.birth.argsort(1)
    assert memory.live.all() and memory.live.shape[1] == STEPS

    def sorted_by_birth(tensor: Tensor) -> Tensor:
        return torch.stack([row[places] for row, places in zip(tensor, order, strict=True)])

    torch.testing.assert_close(sorted_by_birth(memory.key_value), key_value)
    torch.testing.assert_close(sorted_by_birth(memory.span), span)
    parameters = [*layer.norm.parameters(), *layer.query_key_value.parameters(), *layer.span.parameters()]
    ours, theirs = (
        torch.autograd.grad(a.sin().sum() + b.sin().sum(), parameters, materialize_grads=True, allow_unused=True)
        for a, b in ((memory.key_value, memory.span), (key_value, span))
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_segment_with_gradient_hands_on_no_keys_and_values(core: ExpireSpan, compact: bool, steps: int) -> None:
    """They are those of the weights that read the next segment, whose gradient goes through them."""
    x, resets = episode_data()
    with torch.no_grad():
        kept = core(x, core.initial_state(ROWS), resets).state
    state = core(x, core.initial_state(ROWS), resets).state
    assert (kept.has_keys, state.has_keys) == (True, False)
    assert not any(layer.key_value.numel() or layer.hidden.requires_grad for layer in state.layers)
    randomize(core, 5)
    more, begins = episode_data(seed=6)
    given = more[:, :steps], (state.compact() if compact else state), begins[:, :steps]
    gone_on = core(*given)
    refreshed = core(given[0], core.refresh(kept), given[2])
    torch.testing.assert_close(gone_on.y, refreshed.y)
    for ours, theirs in zip(*(gradients(core, output.y.sin().sum()) for output in (gone_on, refreshed)), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(core(*given).y, refreshed.y)


@pytest.mark.parametrize("capacity", [3, 8])
@pytest.mark.parametrize("stepped", [False, True])
def test_a_state_that_holds_more_than_the_capacity_is_cut_down_before_it_is_seen(capacity: int, stepped: bool) -> None:
    torch.manual_seed(2)
    roomy = ExpireSpan(replace(BASE, max_span=97.0)).double()
    randomize(roomy, 3)
    tight = ExpireSpan(replace(BASE, max_span=97.0, capacity=capacity)).double()
    tight.load_state_dict(roomy.state_dict())
    x, resets = episode_data()
    resets[:, 1:] = False
    more, no_resets = episode_data(seed=7, steps=1)
    no_resets[:] = False
    with torch.no_grad():
        state = roomy.initial_state(ROWS)
        for step in range(STEPS) if stepped else [slice(None)]:
            at = slice(step, step + 1) if isinstance(step, int) else step
            state = roomy(x[:, at], state, resets[:, at]).state
        assert max(int(layer.live.sum(1).max()) for layer in state.layers) > capacity + 1
        read, acted = (
            tight(more, state, no_resets, record=Record.STATE | Record.TRACE | beside)
            for beside in (Record.LOSSES, Record.NOTHING)
        )
    torch.testing.assert_close(acted.y, read.y)
    assert_same_memories(acted.state, read.state)
    assert all(torch.equal(a.live, b.live) for a, b in zip(acted.trace, read.trace, strict=True))


@pytest.mark.parametrize(("capacity", "ramp", "newest"), [(1, 5.0, 0), (7, 5.0, 3), (40, 5.0, 5)])
def test_the_newest_memories_are_not_evicted(capacity: int, ramp: float, newest: int) -> None:
    torch.manual_seed(2)
    config = replace(BASE, capacity=capacity, max_span=1000.0, initial_span=0.9, ramp=ramp, layers=1)
    core = ExpireSpan(config).double()
    x, resets = episode_data(steps=60)
    resets[:, 1:] = False
    x[:, 50:] = -x[:, :1]  # unlike all before
    layer = next(core.stack())
    with torch.no_grad():
        layer.span.weight += 100 * layer.norm(x[0, 0])
        output = core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)
    assert output.trace is not None
    evicted, now = output.trace[0].evicted, torch.arange(60)
    assert config.newest == newest
    assert (evicted[0, 50:] >= 0).all() == (capacity < 40)
    assert bool((evicted <= (now - newest).clamp(min=-1)).all())
    births = output.state.layers[0].birth[0][output.state.layers[0].live[0]].tolist()
    assert set(range(61 - newest, 60)) <= set(births)
    assert len(births) <= capacity


def gradients(core: ExpireSpan, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(core.parameters()), allow_unused=True, materialize_grads=True))


def test_deletion_changes_nothing(core: ExpireSpan) -> None:
    x, resets = episode_data()
    results = []
    for keep in (False, True):
        state = core.initial_state(ROWS)
        with torch.no_grad():
            state = core(x, state, resets, keep_expired=keep).state
        more, more_resets = episode_data(seed=7, steps=17)
        more_resets[:, 0] = False
        output = core(more, core.refresh(state), more_resets, record=Record.LOSSES, keep_expired=keep)
        loss = (output.y * torch.linspace(-1, 1, WIDTH, dtype=torch.float64)).sum() + 0.1 * output.losses["penalty"]
        results.append((output.y, output.losses["penalty"], gradients(core, loss)))
    for deleted, kept in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(deleted, kept)
    for deleted, kept in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(deleted, kept)


def test_rows_are_independent_of_company_and_order(core: ExpireSpan) -> None:
    x, resets = episode_data()
    state = core(x, core.initial_state(ROWS), resets).state
    more, more_resets = episode_data(seed=11, steps=7)
    more_resets[:, 0] = False
    together = core(more, state, more_resets)
    order = torch.tensor([2, 0])
    apart = core(more[order], state.rows(order), more_resets[order])
    torch.testing.assert_close(apart.y, together.y[order])
    assert_same_memories(apart.state, together.state.rows(order))


def test_a_state_stays_what_it_was_when_acting_goes_on_from_it_more_than_once(core: ExpireSpan) -> None:
    x, resets = episode_data()
    other, no_resets = episode_data(seed=13, steps=1)
    no_resets[:] = False
    with torch.no_grad():
        state = core.initial_state(ROWS)
        for step in range(11):
            state = core(x[:, step : step + 1], state, resets[:, step : step + 1]).state
        first = core(x[:, 11:12], state, no_resets)
        after = core(x[:, 12:13], first.state, no_resets).y
        core(other, state, no_resets)
        torch.testing.assert_close(core(x[:, 11:12], state, no_resets).y, first.y)
        torch.testing.assert_close(core(x[:, 12:13], first.state, no_resets).y, after)


def test_slots_carry_no_meaning(core: ExpireSpan) -> None:
    x, resets = episode_data()
    state = core(x, core.initial_state(ROWS), resets).state
    shuffled = replace(
        state,
        layers=tuple(layer.map(lambda t: t.flip(2) if t.dim() == 4 else t.flip(1)) for layer in state.layers),
    )
    more, more_resets = episode_data(seed=13, steps=7)
    more_resets[:, 0] = False
    torch.testing.assert_close(core(more, shuffled, more_resets).y, core(more, state, more_resets).y)


def test_reference_agrees(core: ExpireSpan) -> None:
    x, resets = episode_data()
    output = core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)
    y, penalty, memories, evictions = reference_core(core, x, resets)
    torch.testing.assert_close(output.y, y)
    torch.testing.assert_close(output.losses["penalty"], penalty)
    kept = stored(output.state)
    for row, layers in enumerate(memories):
        for number, left in enumerate(layers):
            assert sorted(kept[number][row]) == sorted(memory.birth for memory in left)
    assert sum(int((layer.evicted >= 0).sum()) for layer in output.trace) == evictions
    weights = torch.linspace(-1, 2, WIDTH, dtype=torch.float64)
    ours = gradients(core, (output.y * weights).sum() + 0.3 * output.losses["penalty"])
    theirs = gradients(core, (y * weights).sum() + 0.3 * penalty)
    for name, mine, literal in zip(dict(core.named_parameters()), ours, theirs, strict=True):
        torch.testing.assert_close(mine, literal, msg=lambda text, name=name: f"{name}: {text}")


def test_reference_agrees_under_random_shortening(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    core = ExpireSpan(replace(BASE, shorten_spans=True)).double()
    randomize(core, 3)
    x, resets = episode_data()
    monkeypatch.setattr(torch, "rand", lambda shape: torch.full(shape, 0.17))
    core.train()
    short = core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES)
    y, penalty, memories, _ = reference_core(core, x, resets, longest=BASE.max_span * torch.tensor(0.17).item())
    torch.testing.assert_close(short.y, y)
    torch.testing.assert_close(short.losses["penalty"], penalty)
    for row, layers in enumerate(memories):  # deletion goes by the spans that were not shortened
        for number, left in enumerate(layers):
            assert sorted(stored(short.state)[number][row]) == sorted(memory.birth for memory in left)
    core.eval()
    assert not torch.allclose(core(x, core.initial_state(ROWS), resets).y, y)


@pytest.mark.parametrize("steps", [1, 4])
def test_shapes_that_do_not_belong_together_are_refused(steps: int) -> None:
    core = ExpireSpan(BASE).double()
    x, resets = episode_data(steps=steps)
    empty = core.initial_state(ROWS)
    with torch.no_grad():
        for given in ((x[..., :-1], empty, resets), (x, core.initial_state(ROWS + 1), resets)):
            with pytest.raises(ValueError, match=r"Expect `x` of shape \[B, T, 10\] with T > 0, `resets` of shape"):
                core(*given)


def test_state_survives_storage(core: ExpireSpan) -> None:
    x, resets = episode_data()
    state = core(x, core.initial_state(ROWS), resets).state
    restored = core.restore_state({name: tensor.clone() for name, tensor in state.tensors().items()})
    more, more_resets = episode_data(seed=17, steps=7)
    more_resets[:, 0] = False
    torch.testing.assert_close(core(more, restored, more_resets).y, core(more, state, more_resets).y)


def test_cost_follows_what_is_kept() -> None:
    torch.manual_seed(2)
    core = ExpireSpan(replace(BASE, max_span=20.0))
    state = core.initial_state(1)
    slots, live = [], []
    with torch.no_grad():
        for step in range(1000):
            output = core(
                torch.randn(1, 1, WIDTH), state, torch.tensor([[step == 0]]), record=Record.STATE | Record.TRACE
            )
            state = output.state
            slots.append(max(layer.live.shape[1] for layer in state.layers))
            live.append(max(int(layer.live[0, 0]) for layer in output.trace))
    assert int(state.time[0]) == 1000
    assert max(slots) <= max(live) * 1.25 + 2 * SLACK
    assert max(slots[700:]) <= max(slots[:200])


def attended(core: ExpireSpan, split: list[int]) -> dict[tuple[int, int, int, int], float]:
    """What each step attended to, {(layer, row, step, time of birth): weight}, and that asking changes no result."""
    x, resets = episode_data()
    state, start = core.initial_state(ROWS), 0
    found: dict[tuple[int, int, int, int], float] = {}
    for part, reset in zip(x.split(split, 1), resets.split(split, 1), strict=True):
        output = core(part, state, reset, record=Record.STATE | Record.LOSSES | Record.ATTENTION)
        torch.testing.assert_close(output.y, core(part, state, reset).y)
        for number, layer in enumerate(output.trace):
            assert layer.attention is not None
            for row, step, slot in layer.attention.weight.nonzero().tolist():
                birth = int(layer.attention.birth[row, slot])
                found[number, row, start + step, birth] = float(layer.attention.weight[row, step, slot])
        state, start = output.state, start + part.shape[1]
    return found


def test_attention_is_the_same_for_any_split_and_sums_to_one(core: ExpireSpan) -> None:
    whole, steps = attended(core, [STEPS]), attended(core, [1] * STEPS)
    assert whole.keys() == steps.keys()
    assert all(steps[key] == pytest.approx(weight) for key, weight in whole.items())
    sums: dict[tuple[int, int, int], float] = {}
    for (number, row, step, _), weight in whole.items():
        sums[number, row, step] = sums.get((number, row, step), 0) + weight
    assert len(sums) == len(core.layers) * ROWS * STEPS
    assert list(sums.values()) == pytest.approx([1.0] * len(sums))
    x, resets = episode_data()
    assert (
        core(x, core.initial_state(ROWS), resets, record=Record.STATE | Record.LOSSES | Record.TRACE).trace[0].attention
        is None
    )
