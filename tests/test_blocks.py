"""Attention in blocks of steps gives what attention over everything gives."""

from dataclasses import replace

import pytest
import torch
from expirespan.memory import CoreOutput, ExpireSpan, ExpireSpanState, blocks
from reference import randomize
from test_core_laws import BASE, CORES, assert_same_memories, gradients
from torch import Tensor

ROWS, STEPS = 3, 28
WIDTH = BASE.width


def two_segments(core: ExpireSpan, spare_used: bool) -> tuple[CoreOutput[ExpireSpanState], list[Tensor]]:
    """The second of two segments, and the gradients of its output and charges."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, ROWS, STEPS, WIDTH, generator=generator, dtype=torch.float64)
    resets = torch.rand(2, ROWS, STEPS, generator=generator) < 0.06
    state = core(x[0], core.initial_state(ROWS), resets[0]).state
    output = core(x[1], core.refresh(state), resets[1], trace=True, spare_used=spare_used)
    weights = torch.linspace(-1, 2, WIDTH, dtype=torch.float64)
    return output, gradients(core, (output.y * weights).sum() + 0.3 * output.penalty + 0.1 * output.rent)


@pytest.mark.parametrize("spare_used", [False, True])
@pytest.mark.parametrize("name", CORES)
def test_blocks_change_nothing(name: str, spare_used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    core = ExpireSpan(replace(CORES[name], ramp=3.0)).double()
    randomize(core, 3)
    chosen, results = [], []
    choose = blocks.choose_blocks
    monkeypatch.setattr(blocks, "BLOCK", 4)
    monkeypatch.setattr(
        "expirespan.memory.layer.choose_blocks", lambda *given: chosen.append(choose(*given)) or chosen[-1]
    )
    for worthwhile in (0.0, 1.0):
        monkeypatch.setattr(blocks, "WORTHWHILE", worthwhile)
        chosen.clear()
        results.append(two_segments(core, spare_used))
        cut = [found is not None for found in chosen]
        assert not any(cut) if not worthwhile else all(cut)
    (whole, whole_gradients), (blocked, blocked_gradients) = results
    for attribute in ("y", "penalty", "rent"):
        torch.testing.assert_close(getattr(blocked, attribute), getattr(whole, attribute))
    assert (blocked.spared is None) == (whole.spared is None)
    if blocked.spared is not None and whole.spared is not None:
        torch.testing.assert_close(blocked.spared.overdue, whole.spared.overdue)
        assert (blocked.spared.used, blocked.spared.late) == (whole.spared.used, whole.spared.late)
    assert_same_memories(blocked.state, whole.state)
    for ours, theirs in zip(blocked.trace or (), whole.trace or (), strict=True):
        torch.testing.assert_close(ours.live, theirs.live)
        torch.testing.assert_close(ours.span, theirs.span)
        torch.testing.assert_close(ours.evicted, theirs.evicted)
    for ours, theirs in zip(blocked_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
