"""The C of kernels.c gives what torch gives: outputs, gradients, what is stored, and all that is counted."""

import shutil
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from expirespan.memory import AdaptiveSpanConfig, CoreOutput, ExpireSpan, ExpireSpanState, GTrXLConfig, Record
from expirespan.memory.attention import Positions
from expirespan.memory.expire_span import compiled
from expirespan.memory.expire_span.attention import MemoryView
from expirespan.memory.expire_span.layer import ExpireSpanLayer
from reference import randomize
from test_core_laws import BASE, CORES, assert_same_memories
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close

EVERYTHING = Record.STATE | Record.LOSSES | Record.TRACE | Record.FACTS
ROWS, STEPS = 3, 53
"""Several blocks of any build, and a rest."""
SHAPES = {
    **CORES,
    "wide heads": replace(BASE, width=66, heads=2, ff_width=37, position_window=5),
    "shortened": replace(BASE, shorten_spans=True),
}


def test_there_is_a_library_where_there_is_a_compiler() -> None:
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert compiled.builds()


def two_segments(core: ExpireSpan, dtype: torch.dtype) -> tuple[CoreOutput[ExpireSpanState], list[Tensor]]:
    """The second of two segments, and the gradients of its output and charges."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, ROWS, STEPS, core.width, generator=generator, dtype=torch.float64).to(dtype)
    x.requires_grad_()
    resets = torch.rand(2, ROWS, STEPS, generator=generator) < 0.06
    resets[1, :, 0] = False
    torch.manual_seed(1)  # shortening
    state = core(x[0].detach(), core.initial_state(ROWS), resets[0]).state
    output = core(x[1], core.refresh(state), resets[1], record=EVERYTHING)
    weights = torch.linspace(-1, 2, core.width, dtype=dtype)
    loss = (output.y * weights).sum() + 0.3 * output.losses["penalty"]
    loss = loss + sum(0.1 * layer.idle_rent - 0.2 * layer.used_rent + 0.05 * layer.overdue for layer in output.facts)
    inputs = [x, *core.parameters()]
    return output, list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("path", compiled.builds(), ids=lambda path: path.name.split(".")[0])
def test_segments_are_the_same(path: Any, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    core = ExpireSpan(replace(SHAPES[name], ramp=3.0)).to(dtype)
    randomize(core, 3)
    results = []
    for library in (None, compiled.load(path)):
        monkeypatch.setattr(compiled, "library", lambda library=library: library)
        results.append(two_segments(core, dtype))
    (plain, plain_gradients), (fast, fast_gradients) = results
    same = partial(assert_close, rtol=1e-3, atol=5e-3) if dtype == torch.float32 else assert_close
    same(fast.losses["penalty"], plain.losses["penalty"])
    same(fast.y, plain.y)
    for one, other in zip(fast.facts, plain.facts, strict=True):
        for rent in ("idle_rent", "used_rent", "overdue"):
            same(getattr(one, rent), getattr(other, rent))
        assert one.counts.tolist() == other.counts.tolist()
    assert sum(layer.counts[2] for layer in plain.facts) > 0 or name == "no memory"
    if dtype == torch.float64:
        assert_same_memories(fast.state, plain.state)
    for ours, theirs in zip(fast.trace or (), plain.trace or (), strict=True):
        assert_close(ours.live, theirs.live)
        same(ours.span, theirs.span)
        assert_close(ours.evicted, theirs.evicted)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("path", compiled.builds(), ids=lambda path: path.name.split(".")[0])
def test_ends_at_whole_steps_are_the_same_in_c_and_torch_in_a_segment_and_a_step(
    path: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans of exactly 0 or the longest, with ramps that no binary fraction is: what rounding made of their ends."""
    steps = 40
    for number, ramp in enumerate((0.1, 0.3, 0.7, 1.0, 3.0, 5.7, 7.0, 11.0, 0.1 + 0.2)):
        for capacity in (None, 5):
            settings = replace(BASE, max_span=13.0, ramp=ramp, capacity=capacity, position_window=0)
            core = ExpireSpan(settings).to(dtype)
            randomize(core, number)
            for layer in core.stack():
                layer.span.weight.data.mul_(1e6)  # saturated, one way or the other
            x = torch.randn(ROWS, steps, BASE.width, dtype=dtype, generator=torch.Generator().manual_seed(number))
            resets = torch.zeros(ROWS, steps, dtype=torch.bool)
            resets[1, 17] = True
            found = []
            for library in (None, compiled.load(path)):
                monkeypatch.setattr(compiled, "library", lambda library=library: library)
                found += [kept(core, x, resets, steps), kept(core, x, resets, 1)]
            for other in found[1:]:
                assert_close(other.y, found[0].y, rtol=1e-3, atol=1e-3)
                for ours, theirs in zip(other.layers, found[0].layers, strict=True):
                    assert torch.equal(ours, theirs), (ramp, capacity)


class Seen(NamedTuple):
    """What an episode read in calls of some steps."""

    y: Tensor
    layers: list[Tensor]
    """Of each layer, live memories and evictions of every step."""


def kept(core: ExpireSpan, x: Tensor, resets: Tensor, steps: int) -> Seen:
    state, outputs = core.initial_state(len(x)), []
    with torch.no_grad():
        for first in range(0, x.shape[1], steps):
            part = slice(first, first + steps)
            output = core(x[:, part], state, resets[:, part], record=Record.STATE | Record.TRACE)
            assert output.state is not None and output.trace is not None
            state = output.state
            outputs.append(output)
    traces = zip(*(output.trace for output in outputs), strict=True)
    counts = [torch.cat([torch.stack([one.live, one.evicted]) for one in layers], 2) for layers in traces]
    return Seen(torch.cat([output.y for output in outputs], 1), counts)


def test_what_can_not_be_computed_in_c_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_call", lambda *given: pytest.fail("called"))
    core = ExpireSpan(BASE)
    x, resets = torch.randn(ROWS, 2, BASE.width), torch.zeros(ROWS, 2, dtype=torch.bool)
    core.to(torch.bfloat16)(x.to(torch.bfloat16), core.initial_state(ROWS), resets)
    core.float()(x, core.initial_state(ROWS), resets, record=Record.ATTENTION)
    monkeypatch.setattr(compiled, "library", lambda: None)
    core(x, core.initial_state(ROWS), resets)


def test_the_gradient_of_a_cut_core_stops_at_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    core = ExpireSpan(BASE).double()
    randomize(core, 3)
    cut, results = core.cut(5.0), []
    for library in (None, compiled.library()):
        monkeypatch.setattr(compiled, "library", lambda library=library: library)
        results.append(two_segments(cut, torch.float64))
    assert_close(results[1][0].y, results[0][0].y)
    for ours, theirs in zip(results[1][1], results[0][1], strict=True):
        assert_close(ours, theirs)


WIDTH, FF_WIDTH, HEADS = BASE.width, BASE.ff_width, BASE.heads
CHANGES: dict[str, Callable[[ExpireSpanLayer], Any]] = {
    "weight_norm": lambda layer: parametrizations.weight_norm(layer.output),
    "prune": lambda layer: prune.l1_unstructured(layer.output, "weight", amount=0.5),
    "hook": lambda layer: layer.output.register_forward_hook(lambda *given: given[-1] + 1),
    "hook on a half": lambda layer: layer.feed_forward.register_forward_hook(lambda *given: given[-1] + 1),
    "hook on the activation": lambda layer: layer.feed_forward[1].register_forward_hook(lambda *given: given[-1] + 1),
    "hook on the gradient": lambda layer: layer.output.register_full_backward_hook(lambda _, into, out: (2 * into[0],)),
    "another activation": lambda layer: layer.feed_forward.__setitem__(1, nn.GELU()),
    "a longer half": lambda layer: layer.feed_forward.append(nn.Tanh()),
    "another width": lambda layer: setattr(
        layer, "feed_forward", nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, WIDTH))
    ),
    "no bias": lambda layer: layer.feed_forward.__setitem__(0, nn.Linear(WIDTH, FF_WIDTH, bias=False)),
    "no bias of the output": lambda layer: setattr(layer, "output", nn.Linear(WIDTH + HEADS, WIDTH, bias=False)),
    "a norm without weights": lambda layer: setattr(layer, "norm", nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "another eps": lambda layer: setattr(layer.feed_forward_norm, "eps", 0.3),
    "dropout": lambda layer: setattr(layer.dropout, "p", 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_layers_that_are_not_as_they_came_are_left_to_torch(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, which C computes whole, and a segment."""
    core = ExpireSpan(BASE)
    CHANGES[change](next(core.stack()))
    results = []
    for library in (compiled.library(), None):
        monkeypatch.setattr(compiled, "library", lambda library=library: library)
        torch.manual_seed(1)
        x, resets = torch.randn(ROWS, 2, WIDTH, requires_grad=True), torch.zeros(ROWS, 2, dtype=torch.bool)
        with torch.no_grad():
            step = core(x[:, :1], core.initial_state(ROWS), resets[:, :1]).y
        y = core(x, core.initial_state(ROWS), resets).y
        y.square().sum().backward()
        assert x.grad is not None
        results.append((step, y.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("path", compiled.builds(), ids=lambda path: path.name.split(".")[0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [-900.0, float("nan")])
def test_extreme_scores_are_those_of_torch(
    path: Any, dtype: torch.dtype, bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "library", lambda: compiled.load(path))
    core = ExpireSpan(BASE).to(dtype)
    for layer in core.stack():
        layer.query_key_value.bias.data[: BASE.width] = 100.0
        layer.query_key_value.bias.data[BASE.width : 2 * BASE.width] = bias / 100
    x, resets = torch.randn(ROWS, 7, BASE.width, dtype=dtype), torch.zeros(ROWS, 7, dtype=torch.bool)
    with torch.no_grad():
        whole, state = core(x, core.initial_state(ROWS), resets).y, core.initial_state(ROWS)
        for step in range(7):
            output = core(x[:, step : step + 1], state, resets[:, :1])
            state = output.state
            assert_close(output.y, whole[:, step : step + 1], equal_nan=True, rtol=1e-4, atol=1e-4)
    assert bool(whole.isnan().all()) == (bias != bias)
    assert bool(whole.isfinite().all()) == (bias == bias)


def test_an_earlier_state_can_be_gone_on_from_before_its_gradient_is_asked_for() -> None:
    """A step of GTrXL is torch's, and writes into a free slot that the segment's state has as well."""
    core = GTrXLConfig(layers=1, width=8, heads=2, ff_width=9, window=7).build()
    state, resets = core.initial_state(2), torch.zeros(2, 1, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(5):
            state = core(torch.randn(2, 1, 8), state, resets).state
            assert state is not None
    x = torch.randn(2, 3, 8, requires_grad=True)
    y = core(x, state, resets.expand(2, 3)).y
    with torch.no_grad():
        core(torch.randn(2, 1, 8), state, resets)
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("path", [None, *compiled.builds()[:1]], ids=lambda path: "C" if path else "torch")
def test_the_gradient_is_that_of_finite_differences(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = path and compiled.load(path)
    monkeypatch.setattr(compiled, "library", lambda: chosen)
    for config in (
        replace(BASE, layers=1, capacity=3),
        GTrXLConfig(layers=1, width=8, heads=2, ff_width=9, window=3),
        AdaptiveSpanConfig(layers=1, width=8, heads=2, ff_width=9, window=5, ramp=2.0),
    ):
        torch.manual_seed(0)
        core: Any = config.build().double()
        randomize(core, 2)
        resets = torch.zeros(2, 5, dtype=torch.bool)
        resets[1, 3] = True
        state = core(torch.randn(2, 5, core.width, dtype=torch.float64), core.initial_state(2), resets).state
        state = core.refresh(state).map(torch.Tensor.detach)
        x = torch.randn(2, 5, core.width, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(partial(output_of, core, state, resets), x, atol=1e-6)


def output_of(core: ExpireSpan, state: ExpireSpanState, resets: Tensor, x: Tensor) -> Tensor:
    return core(x, state, resets).y


def test_a_memory_whose_age_is_its_span_is_not_on_its_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    core, penalties = ExpireSpan(replace(BASE, max_span=20.0, ramp=3.0, initial_span=0.9)).cut(5.0), []
    x, resets = torch.randn(ROWS, 30, BASE.width), torch.zeros(ROWS, 30, dtype=torch.bool)
    for library in (None, compiled.library()):
        monkeypatch.setattr(compiled, "library", lambda library=library: library)
        penalties.append(core(x, core.initial_state(ROWS), resets, record=Record.LOSSES).losses["penalty"].item())
    # Each memory spends two steps there, ages 6 and 7, but for those of the last seven.
    on_ramp = sum(max(min(30 - written - 6, 2), 0) for written in range(30))
    assert penalties == pytest.approx([BASE.layers * ROWS * on_ramp * 5 / 3] * 2)


def test_spans_are_exact_to_the_step_with_autocast() -> None:
    core = GTrXLConfig(layers=1, width=8, heads=2, ff_width=9, window=300).build()
    with torch.autocast("cpu"):
        trace = core(
            torch.randn(1, 310, 8), core.initial_state(1), torch.zeros(1, 310, dtype=torch.bool), record=Record.TRACE
        ).trace
    assert trace is not None and bool((trace[0].lifetime == 301).all()) and int(trace[0].live.max()) == 301


def test_autocast_is_left_to_torch() -> None:
    core = ExpireSpan(BASE)
    x, resets = torch.randn(ROWS, 7, BASE.width), torch.zeros(ROWS, 7, dtype=torch.bool)
    state = core(x, core.initial_state(ROWS), resets).state
    with torch.autocast("cpu"):
        assert core(x, core.refresh(state), resets).y.isfinite().all()


def test_a_library_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
    compiled.load.cache_clear()
    assert [compiled.load(path) for path in compiled.builds()] == [None] * len(compiled.builds())
    compiled.load.cache_clear()


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "hidden": lambda x: x[:, :, :-1],
    "key_value": lambda x: x[:, :-1].contiguous(),
    "span": lambda x: x[:, :-1].contiguous(),
    "birth": Tensor.int,
}


def test_tensors_of_another_type_shape_or_layout_are_refused() -> None:
    """Before the library reads past their end."""
    if compiled.library() is None:
        pytest.skip("no library")
    core = ExpireSpan(BASE)
    x, resets = torch.randn(ROWS, 1, BASE.width), torch.zeros(ROWS, 1, dtype=torch.bool)
    with torch.no_grad():
        state = core(x, core.initial_state(ROWS), resets).state  # with a free slot, so that nothing is copied
        assert state is not None
        for name, change in WRONG.items():
            broken = copy(state.layers[0])
            object.__setattr__(broken, name, change(getattr(broken, name)))  # the tests' type checker would refuse it
            with pytest.raises(ValueError, match=f"Expect `{name}` to be contiguous"):
                core(x, replace(state, layers=(broken, *state.layers[1:])), resets)
        bias, layer = torch.zeros(BASE.width + 1), next(core.stack())
        layer.output.bias, right = nn.Parameter(bias), layer.output.bias
        with pytest.raises(ValueError, match=r"Expect `weight 7` to be contiguous torch.float32 \[10\]"):
            core(x, state, resets)
        layer.output.bias = right
        core.double()
        with pytest.raises(ValueError, match=r"contiguous torch.float32 \[10\] on the CPU, actual: torch.float64"):
            core(x, state, resets)


WRONG_VIEWS: dict[str, Callable[[MemoryView], MemoryView]] = {
    "predicted span": lambda view: view._replace(span=view.span.double()),
    "written": lambda view: view._replace(written=view.written.int()),
    "live": lambda view: view._replace(live=view.live[:, 1:]),
    "since": lambda view: view._replace(since=view.since.T),
    "gone": lambda view: view._replace(gone=view.live),
}


def test_attention_refuses_tensors_of_another_type_shape_or_layout() -> None:
    if compiled.library() is None:
        pytest.skip("no library")
    heads, width, slots = 2, 6, 5
    rows, stored = torch.randn(ROWS, 4, 3 * width), torch.randn(ROWS, slots, 2 * width)
    written = torch.arange(-slots, 4).expand(ROWS, -1).contiguous()
    span, live = torch.rand(ROWS, slots + 4), torch.ones(ROWS, slots + 4, dtype=torch.bool)
    view = MemoryView(span, written, written, live, torch.zeros(ROWS, 4, dtype=torch.int64), None)
    positions = Positions(torch.randn(heads, 3, 7), torch.randn(heads, 8))
    read, _ = compiled.attend_segment(rows, stored, span, view, heads, 3.0, positions, False)
    assert read.shape == (ROWS, 4, width + heads)
    for name, change in WRONG_VIEWS.items():
        with pytest.raises(ValueError, match=f"Expect `{name}` to be contiguous"):
            compiled.attend_segment(rows, stored, span, change(view), heads, 3.0, positions, False)
    for wrong, name in (
        (Positions(positions.key.double(), positions.bias), "position"),
        (Positions(positions.key, positions.bias[:, 1:]), "age_bias"),
    ):
        with pytest.raises(ValueError, match=f"Expect `{name}` to be contiguous"):
            compiled.attend_segment(rows, stored, span, view, heads, 3.0, wrong, False)
    with pytest.raises(ValueError, match="Expect `stored` to be contiguous"):
        compiled.attend_segment(rows, stored[:, :, 1:], span, view, heads, 3.0, positions, False)
    with pytest.raises(ValueError, match="Expect `span` to be contiguous"):
        compiled.attend_segment(rows, stored, span[:, 1:], view, heads, 3.0, positions, False)
