"""States of several users: taken apart, joined, moved, stored; in float64 and float32, computed by torch and in C."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from expirespan.memory import ExpireSpan, ExpireSpanConfig, ExpireSpanState
from expirespan.memory.expire_span import compiled
from expirespan.memory.expire_span.fixed_slots import fixed_slots
from models import small
from reference import randomize
from safetensors.torch import load, save
from torch import Tensor

WIDTH = 10
BASE = ExpireSpanConfig(layers=2, width=WIDTH, heads=2, ff_width=7, max_span=23.0, ramp=5.0, initial_span=0.3)
CORES = {
    "plain": BASE,
    "post-norm, positions": replace(BASE, pre_norm=False, position_window=11),
    "capacity 3": replace(BASE, capacity=3, max_span=47.0, initial_span=0.6),
    "no memory": replace(BASE, capacity=0),
}
EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Largest error, in units of the largest output."""


@pytest.fixture(params=[None, *compiled.builds()[:1]], ids=lambda path: "C" if path else "torch")
def in_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    chosen = request.param and compiled.load(request.param)
    monkeypatch.setattr(compiled, "library", lambda: chosen)
    return chosen is not None


@pytest.fixture(params=EXACT, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=CORES.values(), ids=list(CORES))
def core(request: pytest.FixtureRequest, dtype: torch.dtype, in_c: bool) -> ExpireSpan:
    return made(request.param, dtype)


def made(config: ExpireSpanConfig, dtype: torch.dtype = torch.float64) -> ExpireSpan:
    torch.manual_seed(2)
    core = ExpireSpan(config).double()
    randomize(core, 3)
    return core.to(dtype)


def data(core: ExpireSpan, rows: int, steps: int, seed: int, reset_at: int | None = 0) -> tuple[Tensor, Tensor]:
    """Inputs [B, T, D] and resets [B, T]: every row's episode begins at step `reset_at`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, steps, WIDTH, generator=generator, dtype=torch.float64)
    resets = torch.zeros(rows, steps, dtype=torch.bool)
    if reset_at is not None:
        resets[:, reset_at] = True
    return x.to(next(core.parameters()).dtype), resets


def act(core: ExpireSpan, state: ExpireSpanState, x: Tensor, resets: Tensor) -> tuple[Tensor, ExpireSpanState]:
    """Outputs [B, T, D] of single steps, and the state after them."""
    ys = []
    with torch.no_grad():
        for step in range(x.shape[1]):
            output = core(x[:, step : step + 1], state, resets[:, step : step + 1])
            ys.append(output.y)
            state = output.state
    return torch.cat(ys, 1), state


def users(core: ExpireSpan) -> list[ExpireSpanState]:
    """Of 1, 2 and 1 rows, which have seen 5, 29 and no steps."""
    states = [act(core, core.initial_state(1), *data(core, 1, 5, 11))[1]]
    states.append(act(core, core.initial_state(2), *data(core, 2, 29, 13))[1])
    return [*states, core.initial_state(1)]


def assert_same(y: Tensor, expected: Tensor, error: float | None = None) -> None:
    error = EXACT[y.dtype] if error is None else error
    torch.testing.assert_close(y, expected, rtol=0, atol=error * float(expected.abs().max()))


def slots(state: ExpireSpanState) -> list[int]:
    return [layer.live.shape[1] for layer in state.layers]


def test_users_at_different_times_act_in_company_as_they_do_alone(core: ExpireSpan) -> None:
    alone = users(core)
    joined = ExpireSpanState.join(alone)
    assert len(joined) == 4
    assert joined.time.tolist() == [5, 29, 29, 0]
    x, resets = data(core, 4, 17, 17, reset_at=None)
    resets[1, 7] = resets[3, 0] = True
    together, _ = act(core, joined, x, resets)
    apart = [act(core, state, x[rows], resets[rows])[0] for state, rows in zip(alone, ([0], [1, 2], [3]), strict=True)]
    assert_same(together, torch.cat(apart))


def test_splitting_and_joining_changes_no_later_output(core: ExpireSpan) -> None:
    joined = ExpireSpanState.join(users(core))
    x, resets = data(core, 4, 13, 19, reset_at=None)
    expected, after = act(core, joined, x, resets)
    again, _ = act(core, ExpireSpanState.join(joined.split()), x, resets)
    assert_same(again, expected)
    more, no_resets = data(core, 4, 7, 23, reset_at=None)
    later, _ = act(core, after, more, no_resets)
    for row, user in enumerate(after):
        alone, _ = act(core, user, more[[row]], no_resets[[row]])
        assert_same(alone, later[[row]])


def test_a_row_by_itself_has_the_slots_it_needs(core: ExpireSpan) -> None:
    joined = ExpireSpanState.join(users(core))
    for row, user in enumerate(joined.split()):
        needed = [int(layer.live[row].sum()) for layer in joined.layers]
        assert slots(user) == slots(joined[row]) == slots(joined[row - 4]) == needed
        assert len(user) == 1
        assert all(layer.live.all() for layer in user.layers)
        assert all(part.untyped_storage().nbytes() <= part.nbytes for part in user.tensors().values())


def test_states_stay_what_they_were(core: ExpireSpan) -> None:
    _, earlier = act(core, core.initial_state(2), *data(core, 2, 11, 29))
    _, state = act(core, earlier, *data(core, 2, 3, 31, reset_at=None))
    x, resets = data(core, 2, 9, 37, reset_at=None)
    expected = [act(core, s, x, resets)[0] for s in (earlier, state)]
    parts = state.split()
    made = [ExpireSpanState.join(parts[::-1]), parts[0], state[1], state.to("cpu"), ExpireSpanState.join([earlier])]
    for one in made:
        act(core, one, x[: len(one)], resets[: len(one)])
    for one, y in zip((earlier, state, made[3]), (*expected, expected[1]), strict=True):
        assert_same(act(core, one, x, resets)[0], y)


def test_a_state_read_from_bytes_goes_on_with_the_same_numbers(core: ExpireSpan, in_c: bool) -> None:
    state = ExpireSpanState.join(users(core))
    restored = ExpireSpanState.from_bytes(state.to_bytes())
    assert restored.kind == state.kind
    assert slots(restored) == slots(state.compact())
    x, resets = data(core, 4, 7, 41, reset_at=None)
    went_on, expected = act(core, restored, x, resets)[0], act(core, state, x, resets)[0]
    assert_same(went_on, expected, error=0 if in_c else None)
    assert restored.to_bytes() == state.to_bytes()


def test_bytes_hold_nothing_of_what_was_forgotten() -> None:
    core = made(BASE)
    _, state = act(core, core.initial_state(2), *data(core, 2, 11, 43))
    gone = torch.tensor([[True], [False]])
    kept = load(state.forget(lambda written: gone & (written >= 0)).to_bytes())
    for name in ("hidden", "key_value", "span", "birth"):
        assert not kept[f"1.{name}"][0].any()
        assert kept[f"1.{name}"][1].any()


def test_a_state_moves_to_a_device_and_another_type() -> None:
    core = made(BASE)
    _, state = act(core, core.initial_state(1), *data(core, 1, 7, 47))
    assert state.to("meta").kind.device.type == "meta"
    single = state.to(dtype=torch.float32)
    assert single.kind == core.float().initial_state(1).kind
    assert (single.time.dtype, single.layers[1].birth.dtype) == (torch.int64, torch.int64)
    assert single.layers[1].live.dtype == torch.bool


def test_predict_takes_joined_states() -> None:
    model = small()
    obs = model.observation_space.sample()[None].repeat(3, 0) % 3
    obs[1], obs[2] = 1, 2
    memories = []
    for user, steps in enumerate((2, 9, 4)):
        memory = None
        for _ in range(steps):
            _, memory = model.predict(obs[user], memory, deterministic=True)
        memories.append(memory)
    actions, together = model.predict(obs, ExpireSpanState.join(memories), deterministic=True)
    alone = [model.predict(obs[user], memories[user], deterministic=True) for user in range(3)]
    np.testing.assert_array_equal(actions, [action for action, _ in alone])
    assert together.time.tolist() == [3, 10, 5]


def test_wrong_states_are_refused() -> None:
    core, x = made(BASE), torch.zeros(1, 1, WIDTH, dtype=torch.float64)
    state, start = core.initial_state(1), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="Expect `states` to hold at least one state, actual: none"):
        ExpireSpanState.join([])
    narrow = made(replace(BASE, width=6)).initial_state(1)
    rule = (
        r"as states\[0\] of 2 layers of width 10, float64, on cpu, actual: states\[2\] of 2 layers of width 6, float64"
    )
    with pytest.raises(ValueError, match=rule):
        ExpireSpanState.join([state, state, narrow])
    with pytest.raises(IndexError, match="Expect `row` to be one of 1 rows, actual: 1"):
        state[1]
    others = (narrow, made(replace(BASE, layers=3)).initial_state(1), state.to("meta"))
    for other, found in zip(others, ("width 6", "3 layers", "on meta"), strict=True):
        rule = "Expect `state` to be one of this core, of 2 layers of width 10 on cpu, actual: .*"
        with pytest.raises(ValueError, match=rule + found):
            core(x, other, start)


def test_a_state_without_keys_and_values_is_refused_where_they_cannot_be_computed() -> None:
    core = ExpireSpan(ExpireSpanConfig(layers=2, width=8, heads=2, ff_width=8))
    x, resets = torch.zeros(1, 3, 8), torch.zeros(1, 3, dtype=torch.bool)
    state = core(x, core.initial_state(1), resets).state
    refused = (
        r"`core.refresh\(state\)` returns it, actual: 2 layers of width 8, float32, on cpu, without keys and values"
    )
    with pytest.raises(ValueError, match=refused):
        state.to_bytes()
    with pytest.raises(ValueError, match=refused):
        fixed_slots(state, 4)
    refreshed = core.refresh(state)
    assert refreshed.has_keys and ExpireSpanState.from_bytes(refreshed.to_bytes()).has_keys
    with pytest.raises(ValueError, match=r"states\[1\] of 2 layers .* without keys and values"):
        ExpireSpanState.join([refreshed, state])


def _bad_bool(tensor: Tensor) -> Tensor:
    bits = tensor.view(torch.uint8).clone()
    bits[0, 0] = 2
    return bits.view(torch.bool)


BAD: dict[str, tuple[str, Callable[[Tensor], Tensor] | None, str]] = {
    "missing": ("1.span", None, r"Expect the entries time, 0\.hidden, .*1\.live, actual: 0\.birth"),
    "time's type": ("time", Tensor.float, r"`time` to be int64 \[B\] with B > 0, actual: float32 \[2\]"),
    "time's shape": ("time", lambda x: x[None], r"`time` to be int64 \[B\] with B > 0, actual: int64 \[1, 2\]"),
    "time's sign": ("time", lambda x: x - 40, "`time` to be from 0 to 2\\^53, actual: -"),
    "time's size": ("time", lambda x: x + 2**53, "`time` to be from 0 to 2\\^53, actual: 9007199254741003"),
    "rows": ("0.hidden", lambda x: x[:1], r"`0.hidden` to be floating-point \[2, S, D\].*, actual: float64 \[1, "),
    "no numbers": ("0.hidden", Tensor.long, r"`0.hidden` to be floating-point .*, actual: int64"),
    "two types": ("1.hidden", Tensor.float, r"`1.hidden` to be floating-point .* of one type .*, actual: float32"),
    "widths": ("1.hidden", lambda x: x[..., :4], r"`1.hidden` to be .*all layers, actual: float64 \[2, \d+, 4\]"),
    "key_value": ("0.key_value", lambda x: x[..., 1:], r"`0.key_value` to be float64 \[2, \d+, 20\], actual: .* 19\]"),
    "birth's type": ("1.birth", Tensor.int, r"`1.birth` to be int64 \[2, \d+\], actual: int32"),
    "birth's sign": ("1.birth", lambda x: x - 40, "`1.birth` to be at least 0 and before `time`, actual: -"),
    "from the future": ("1.birth", lambda x: x + 40, "`1.birth` to be at least 0 and before `time`, actual: "),
    "live's type": ("0.live", Tensor.int, r"`0.live` to be bool \[2, \d+\], actual: int32"),
    "live's bits": ("0.live", _bad_bool, "`0.live` to be 0 or 1, actual: 2"),
    "span's sign": ("0.span", lambda x: x - 99, "`0.span` to be finite and at least 0, actual: -"),
    "span's size": ("0.span", lambda x: x / 0, "`0.span` to be finite and at least 0, actual: inf"),
    "not a number": ("1.key_value", lambda x: x * torch.nan, "`1.key_value` to be finite, actual: nan"),
}


@pytest.mark.parametrize(("entry", "change", "message"), BAD.values(), ids=list(BAD))
def test_bytes_of_no_state_are_refused_by_the_entry(
    entry: str, change: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    core = made(BASE)
    _, state = act(core, core.initial_state(2), *data(core, 2, 11, 53))
    entries = load(state.to_bytes())
    changed = entries.pop(entry)
    if change is not None:
        entries[entry] = change(changed).contiguous()
    with pytest.raises(ValueError, match=message):
        ExpireSpanState.from_bytes(save(entries, {"format": "expirespan-state-2"}))


def test_other_bytes_are_refused() -> None:
    data = made(BASE).initial_state(1).to_bytes()
    for broken in (b"", b"no state", data[:-1], data[: len(data) // 2]):
        with pytest.raises(ValueError, match="Expect `data` to be the bytes of a state, actual: "):
            ExpireSpanState.from_bytes(broken)
    with pytest.raises(ValueError, match="of the format expirespan-state-2, actual: None"):
        ExpireSpanState.from_bytes(save({"time": torch.zeros(1, dtype=torch.int64)}))
    with pytest.raises(ValueError, match="of the format expirespan-state-2, actual: expirespan-checkpoint-1"):
        ExpireSpanState.from_bytes(save(load(data), {"format": "expirespan-checkpoint-1"}))
