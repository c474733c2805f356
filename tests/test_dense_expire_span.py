"""The yardstick of benchmarks/efficiency.py computes what the core does, so that both may be timed side by side."""

from dataclasses import replace

import torch
from dense_expire_span import DenseConfig, DenseExpireSpan
from expirespan.memory import ExpireSpan, ExpireSpanConfig, Record
from reference import randomize
from torch import Tensor

ROWS, STEPS, SEGMENTS = 3, 7, 13
SHAPE = {"layers": 2, "width": 10, "heads": 2, "ff_width": 11, "max_span": 23.0, "ramp": 5.0, "initial_span": 0.3}


def both() -> tuple[ExpireSpan, DenseExpireSpan]:
    """The two with the same weights; those that the yardstick lacks are 0."""
    torch.manual_seed(0)
    core = ExpireSpanConfig(**SHAPE, position_window=STEPS).build().double()
    dense = DenseConfig(**SHAPE, position_window=STEPS).build().double()
    randomize(core, 1)
    with torch.no_grad():
        for ours, theirs in zip(core.stack(), dense.layers, strict=True):
            assert ours.position is not None and ours.age_weight is not None
            ours.age_weight.zero_()
            ours.output.weight[:, core.width :] = 0
            ours.position.copy_(dense.position)
            weights = ours.state_dict()
            del weights["age_weight"], weights["position"]
            weights["output.weight"] = weights["output.weight"][:, : core.width]
            theirs.load_state_dict(weights)
        dense.final_norm.load_state_dict(core.final_norm.state_dict())
    return core, dense


def gradients(core: ExpireSpan) -> dict[str, Tensor]:
    """Of the core's weights, by their names in the yardstick."""
    found: dict[str, Tensor] = {}
    for name, parameter in core.named_parameters():
        if "age_weight" not in name:
            assert parameter.grad is not None, name
            found[name] = parameter.grad
    positions = [found.pop(name) for name in list(found) if name.endswith("position")]
    for name in list(found):
        if name.endswith("output.weight"):
            found[name] = found[name][:, : core.width]
    return found | {"position": torch.stack(positions).sum((0, 1))}


def test_the_yardstick_computes_what_the_core_computes_with_the_same_weights() -> None:
    core, dense = both()
    x = torch.randn(ROWS, STEPS * SEGMENTS, core.width, dtype=torch.float64)
    resets = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    state, stored, sizes = core.initial_state(ROWS), dense.initial_state(ROWS), []
    for part in x.split(STEPS, 1):
        ours = core(part, core.refresh(state), resets, record=Record.STATE | Record.LOSSES)
        theirs = dense(part, dense.refresh(stored), resets)
        torch.testing.assert_close(theirs.y, ours.y)
        torch.testing.assert_close(theirs.losses["penalty"], ours.losses["penalty"])
        for output in (ours, theirs):
            (output.y.sin().sum() + 0.1 * output.losses["penalty"]).backward()
        state, stored = ours.state.compact(), theirs.state
        sizes += [layer.hidden.shape[1] for layer in stored.layers]
    for name, gradient in gradients(core).items():
        torch.testing.assert_close(dense.get_parameter(name).grad, gradient, msg=name)
    assert all(size % STEPS == 0 for size in sizes)
    assert max(sizes) < STEPS * SEGMENTS  # places were given up


def test_a_place_is_given_up_in_whole_blocks_once_it_has_expired_in_every_row() -> None:
    """Spans of 0 and a ramp of 5: memories live for five steps, and the last block of seven stays all the same."""
    config = DenseConfig(**SHAPE, position_window=STEPS)
    dense = replace(config, initial_span=1e-9).build()
    state, resets = dense.initial_state(2), torch.zeros(2, STEPS, dtype=torch.bool)
    for _ in range(3):
        state = dense(torch.randn(2, STEPS, 10), state, resets).state
    assert [stored.age.tolist() for stored in state.layers] == [[7, 6, 5, 4, 3, 2, 1]] * 2
