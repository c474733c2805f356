"""What every memory core obeys, as tests of any core: `check_core(MyConfig().build())`, as Gymnasium's `check_env`.

Each law is a function of a core that raises `BrokenLaw`, an AssertionError that says what differs.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .core import CoreOutput, MemoryCore, Record

ROWS, STEPS, LONG = 3, 29, 200
EVERYTHING = Record.STATE | Record.LOSSES | Record.TRACE | Record.FACTS
Core = MemoryCore[Any]


class BrokenLaw(AssertionError):
    """A core does not do what every core must."""


def check_core(core: Core, *, seed: int = 0) -> None:
    """Raise BrokenLaw where a core breaks a law, in float64 or in float32.

    The core stays as it is; its copies get random weights, so that nothing is hidden by initial values.
    """
    for dtype in (torch.float64, torch.float32):
        for law in LAWS:
            copied = deepcopy(core).to(dtype=dtype).eval()
            _randomize(copied, seed)
            law(copied)


def any_split_is_the_same(core: Core) -> None:
    """T calls of one step, one call of T steps and any split between give the same outputs, losses and state."""
    x, resets = _episodes(core)
    whole = core(x, core.initial_state(ROWS), resets, record=EVERYTHING)
    later, more = _episodes(core, seed=2)
    more[:, 0] = False
    for ends in (range(STEPS + 1), (0, 1, 3, 6, 11, 18, STEPS), (0, 13, STEPS)):
        state, ys, losses = core.initial_state(ROWS), [], []
        for begin, end in pairwise(ends):
            part = core(x[:, begin:end], state, resets[:, begin:end], record=EVERYTHING)
            state, ys, losses = _state(part), [*ys, part.y], [*losses, part.losses]
        split = f"in parts that end at {list(ends)[1:]}"
        _same(torch.cat(ys, 1), whole.y, f"Expect the same outputs {split} as at once")
        for name, value in whole.losses.items():
            total = torch.stack([part[name] for part in losses]).sum()
            _same(total, value, f"Expect the same loss {name!r} {split} as at once")
        _same(
            core(later, state, more).y, core(later, _state(whole), more).y, f"Expect the same state {split} as at once"
        )


def acting_is_the_same(core: Core) -> None:
    """Without gradient, step by step and asked for nothing but the state, the outputs are those of a segment."""
    x, resets = _episodes(core)
    whole = core(x, core.initial_state(ROWS), resets, record=EVERYTHING)
    state, ys = core.initial_state(ROWS), []
    with torch.no_grad():
        for step in range(STEPS):
            part = core(x[:, step : step + 1], state, resets[:, step : step + 1])
            state, ys = _state(part), [*ys, part.y]
    _same(torch.cat(ys, 1), whole.y, "Expect acting step by step to give the outputs of the segment")


def what_is_recorded_changes_nothing(core: Core) -> None:
    """Outputs are the same whatever is asked for beside them; so is a state that is returned unasked."""
    x, resets = _episodes(core)
    plain = core(x, core.initial_state(ROWS), resets, record=Record.NOTHING)
    full = core(x, core.initial_state(ROWS), resets, record=EVERYTHING)
    _same(full.y, plain.y, "Expect the same outputs whatever is recorded")
    if plain.state is not None:
        later, more = _episodes(core, seed=2)
        more[:, 0] = False
        message = "Expect None or the state after the segment where none was asked for"
        _same(core(later, plain.state, more).y, core(later, _state(full), more).y, message)
    entries = len(full.trace or ())
    _expect(bool(entries) == core.keeps_memories, f"Expect a trace of layers by `keeps_memories`, actual: {entries}")
    for number, layer in enumerate(full.trace or ()):
        shapes = [list(getattr(layer, name).shape) for name in ("span", "lifetime", "live", "evicted")]
        _expect(shapes == [[ROWS, STEPS]] * 4, f"Expect [B, T] in layer {number} of the trace, actual: {shapes}")


def nothing_is_seen_past_a_reset(core: Core) -> None:
    """What comes from a reset on is what a new row would have given, wherever in the segment the reset is.

    Not even NaN in a stored state is seen past one.
    """
    x, _ = _episodes(core)
    for reset in (0, 1, STEPS // 2, STEPS - 1):
        resets = torch.zeros(ROWS, STEPS, dtype=torch.bool)
        resets[:, reset] = True
        state = _state(core(x.flip(1), core.initial_state(ROWS), torch.zeros_like(resets)))
        begun = core(x[:, reset:], core.initial_state(ROWS), resets[:, reset:])
        message = f"Expect nothing from before a reset at step {reset} to be seen"
        _same(core(x, state, resets).y[:, reset:], begun.y, message)
    broken, (resets[:, 0], resets[:, 1:]) = x.clone(), (True, False)
    broken[:, STEPS // 2] = torch.nan
    with torch.no_grad():
        state = _state(core(broken, core.initial_state(ROWS), resets))
    begun = core(x, core.initial_state(ROWS), resets)
    _same(core(x, state, resets).y, begun.y, "Expect no NaN from before a reset to be seen")


def rows_are_independent(core: Core) -> None:
    """A row's outputs don't depend on the other rows, nor on their order."""
    x, resets = _episodes(core)
    state = _state(core(x, core.initial_state(ROWS), resets))
    later, more = _episodes(core, seed=2)
    more[:, 0] = False
    together, order = core(later, state, more), torch.tensor([2, 0])
    apart = core(later[order], state.rows(order), more[order])
    _same(apart.y, together.y[order], "Expect a row to be the same in any company")
    compact = core(later, state.compact(), more)
    _same(compact.y, together.y, "Expect a compact state to be the same state")
    _expect(len(state) == ROWS, f"Expect a state of {ROWS} rows, actual: {len(state)}")


def a_stored_state_goes_on(core: Core) -> None:
    """What `State.tensors` gives is enough: restored, the state goes on as it would have."""
    x, resets = _episodes(core)
    state = _state(core(x, core.initial_state(ROWS), resets))
    restored = core.restore_state({name: tensor.clone() for name, tensor in state.tensors().items()})
    later, more = _episodes(core, seed=2)
    more[:, 0] = False
    _same(core(later, restored, more).y, core(later, state, more).y, "Expect a restored state to go on")


def a_refreshed_state_follows_the_weights(core: Core) -> None:
    """After new weights, what `refresh` makes of a state is what is restored from its tensors under these weights."""
    x, resets = _episodes(core)
    state = _state(core(x, core.initial_state(ROWS), resets))
    _randomize(core, seed=5)
    restored = core.restore_state({name: tensor.clone() for name, tensor in state.tensors().items()})
    later, more = _episodes(core, seed=2)
    more[:, 0] = False
    refreshed = core(later, core.refresh(state), more)
    _same(refreshed.y, core(later, restored, more).y, "Expect `refresh` to follow the present weights")


def a_clock_counts_the_steps_of_the_episode(core: Core) -> None:
    """Where a state has `time`, it is the steps since the episode began, int64 [B], of segments and of single steps."""
    if not hasattr(state := core.initial_state(ROWS), "time"):
        return
    x, resets = _episodes(core)
    expected, acted = torch.zeros(ROWS, dtype=torch.int64), state
    for step in range(STEPS):
        with torch.no_grad():
            acted = _state(core(x[:, step : step + 1], acted, resets[:, step : step + 1]))
        expected = expected * ~resets[:, step] + 1
        after = _state(core(x[:, : step + 1], state, resets[:, : step + 1]))
        for time in (acted.time, after.time):
            told = f"actual: {time.tolist()} after {expected.tolist()} steps"
            _expect(torch.equal(time, expected), f"Expect `time` to count the steps of the episode, {told}")


def gradients_are_finite_and_end_at_the_segment(core: Core) -> None:
    """The outputs' gradients are finite, and none goes back to a segment before."""
    x, resets = _episodes(core)
    x.requires_grad_()
    state = _state(core(x, core.initial_state(ROWS), resets))
    later, more = _episodes(core, seed=2)
    more[:, 0] = False
    later.requires_grad_()
    output = core(later, core.refresh(state), more, record=Record.LOSSES)
    loss = output.y.square().sum() + sum(output.losses.values(), output.y.new_zeros(()))
    learning = [parameter for parameter in core.parameters() if parameter.requires_grad]
    before, now, *of_weights = torch.autograd.grad(
        loss, [x, later, *learning], allow_unused=True, materialize_grads=True
    )
    finite = all(bool(part.isfinite().all()) for part in (now, *of_weights))
    _expect(finite, "Expect finite gradients, actual: some are not")
    _expect(not before.any(), "Expect no gradient to go back to the segment before")
    _expect(bool(now.any()), "Expect a gradient to the inputs of the segment")


def what_has_expired_is_not_seen(core: Core) -> None:
    """Of a core that keeps memories of single steps: an input makes no difference once all lifetimes have passed.

    Through L layers that is the sum of their longest lifetimes; twice that, as an input may also push out memories that
    another would have left.
    """
    if not core.keeps_memories:
        return
    x, resets = _one_long_episode(core)
    other = x.clone()
    other[:, 3] = -x[:, 3]
    ys, latest = [], 0
    for inputs in (x, other):
        output = core(inputs, core.initial_state(ROWS), resets, record=EVERYTHING)
        ys.append(output.y)
        latest = max(latest, 3 + 2 * sum(int(layer.lifetime.max()) for layer in output.trace or ()))
    if latest < LONG:
        message = f"Expect an input of step 3 not to matter from step {latest} on, when every lifetime has passed"
        _same(ys[0][:, latest:], ys[1][:, latest:], message)


def what_is_stored_follows_what_is_live(core: Core) -> None:
    """Of a core that keeps memories of single steps: a compact state grows with what lives, not with the episode.

    The numbers in it are at most in proportion to the live memories, however many steps there were.
    """
    if not core.keeps_memories:
        return
    x, resets = _one_long_episode(core)
    state, resets_later, share = core.initial_state(ROWS), torch.zeros_like(resets[:, :1]), []
    for begin in range(0, LONG, LONG // 4):
        part = slice(begin, begin + LONG // 4)
        output = core(x[:, part], state, resets[:, part], record=EVERYTHING)
        state = _state(output)
        seen = core(x[:, :1], state, resets_later, record=EVERYTHING).trace or ()
        live = sum(int(layer.live.max()) for layer in seen)
        share.append(sum(tensor.numel() for tensor in state.compact().tensors().values()) / live)
    told = ", ".join(f"{value:.0f}" for value in share)
    # A short episode may leave a window of fixed size half empty.
    _expect(
        share[-1] <= 1.5 * share[0],
        f"Expect no more numbers stored for each live memory late in an episode than early, actual: {told}",
    )


LAWS: tuple[Callable[[Core], None], ...] = (
    any_split_is_the_same,
    acting_is_the_same,
    what_is_recorded_changes_nothing,
    nothing_is_seen_past_a_reset,
    rows_are_independent,
    a_stored_state_goes_on,
    a_refreshed_state_follows_the_weights,
    a_clock_counts_the_steps_of_the_episode,
    gradients_are_finite_and_end_at_the_segment,
    what_has_expired_is_not_seen,
    what_is_stored_follows_what_is_live,
)


def _like(core: Core) -> Tensor:
    return next(core.parameters(), torch.zeros(()))


def _episodes(core: Core, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs [B, T, D] and resets [B, T] with several episodes in each row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, STEPS, core.width, generator=generator, dtype=torch.float64)
    resets = torch.rand(ROWS, STEPS, generator=generator) < 0.1
    resets[:, 0] = True
    like = _like(core)
    return x.to(like), resets.to(like.device)


def _one_long_episode(core: Core) -> tuple[Tensor, Tensor]:
    """Inputs [B, T, D] and resets [B, T] of an episode in each row."""
    generator, like = torch.Generator().manual_seed(1), _like(core)
    x = torch.randn(ROWS, LONG, core.width, generator=generator, dtype=torch.float64)
    resets = torch.zeros(ROWS, LONG, dtype=torch.bool)
    resets[:, 0] = True
    return x.to(like), resets.to(like.device)


def _randomize(core: Core, seed: int) -> None:
    """Move all weights away from where they began."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in core.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.2 * noise.to(parameter)


def _state(output: CoreOutput[Any]) -> Any:
    _expect(output.state is not None, "Expect a state where it was asked for, actual: None")
    return output.state


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise BrokenLaw(message)


def _same(actual: Tensor, expected: Tensor, message: str) -> None:
    # In float32 sums of another order differ in the last digits, which some thirty steps carry on.
    tolerance = 1e-9 if actual.dtype == torch.float64 else 2e-3
    _expect(actual.shape == expected.shape, f"{message}, actual shapes: {list(actual.shape)}, {list(expected.shape)}")
    actual, expected = actual.detach(), expected.detach()
    apart = float((actual - expected).abs().max()) if actual.numel() else 0.0
    scale = max(float(expected.abs().max()) if expected.numel() else 0.0, 1.0)
    _expect(apart <= tolerance * scale, f"{message}, actual: {apart:.2g} apart in {actual.dtype}")
