"""The rivals of Expire-Span, each against its paper's formulas written out as loops."""

from typing import Any

import pytest
import torch
from expirespan.memory import (
    AdaptiveSpanConfig,
    CompressiveConfig,
    GatedDeltaNetConfig,
    GTrXLConfig,
    MinGRUConfig,
    Record,
    TransformerXLConfig,
)
from expirespan.memory.adaptive_span import AdaptiveLayer, AdaptiveSpan
from expirespan.memory.compressive import CompressiveLayer
from expirespan.memory.gated_delta_net import GatedDeltaNetLayer
from expirespan.memory.min_gru import MinGRULayer
from reference import randomize
from torch import Tensor, nn

STEPS, WIDTH, HEADS = 37, 8, 2
SHAPE: dict[str, Any] = {"layers": 1, "width": WIDTH, "heads": HEADS, "ff_width": 9}


def made(config: Any) -> Any:
    torch.manual_seed(0)
    core = config.build().double()
    randomize(core, 3)
    return core


def episode(steps: int = STEPS) -> Tensor:
    return torch.randn(steps, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def outputs(core: Any, x: Tensor) -> Any:
    """Of one episode, which begins with the segment."""
    resets = torch.zeros(1, len(x), dtype=torch.bool)
    resets[:, 0] = True
    return core(x.unsqueeze(0), core.initial_state(1), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)


def read(layer: Any, x: Tensor, memories: list[tuple[Tensor, int, list[float]]]) -> Tensor:
    """What one step reads from inputs, each with the index of its position and the mask of each head."""
    size = WIDTH // HEADS
    query, _, _ = layer.query_key_value(layer.norm(x)).chunk(3)
    averages, counts = [], []
    for h in range(HEADS):
        part, scores, values = slice(h * size, (h + 1) * size), [], []
        for memory, age, mask in memories:
            _, key, value = layer.query_key_value(layer.norm(memory)).chunk(3)
            score = query[part] @ key[part] + query[part] @ layer.position[h, :, age]
            scores.append(mask[h] * torch.exp(score / size**0.5 + 10 * layer.age_weight[h, age]))
            values.append(value[part])
        total = torch.stack(scores).sum()
        averages.append(torch.stack([s / total * v for s, v in zip(scores, values, strict=True)]).sum(0))
        counts.append(4 * total.log())
    return torch.cat([*averages, torch.stack(counts)])


def block(layer: Any, x: Tensor, wrote: Tensor) -> Tensor:
    """The residual stream after what was read and the feed-forward half."""
    x = x + wrote
    return x + layer.feed_forward(layer.feed_forward_norm(x))


def gates(join: Any, x: Tensor, y: Tensor) -> Tensor:
    """A GRU's gates in place of a residual."""
    size, y = len(x), y.relu()
    (reset_y, update_y, new_y), (reset_x, update_x) = join.of_y.weight.split(size), join.of_x.weight.split(size)
    reset = torch.sigmoid(reset_y @ y + reset_x @ x)
    update = torch.sigmoid(update_y @ y + update_x @ x - join.bias)
    return (1 - update) * x + update * torch.tanh(new_y @ y + join.of_reset.weight @ (reset * x))


@pytest.mark.parametrize("window", [0, 5, 50])
@pytest.mark.parametrize("kind", [TransformerXLConfig, GTrXLConfig])
def test_a_window_is_attention_over_its_inputs(kind: Any, window: int) -> None:
    core = made(kind(**SHAPE, window=window))
    layer, x = core.layers[0], episode()
    for parameter in layer.span.parameters():
        assert not parameter.requires_grad
    expected = []
    for now in range(STEPS):
        memories = [(x[then], now - then, [1.0, 1.0]) for then in range(max(now - window, 0), now + 1)]
        wrote = layer.output(read(layer, x[now], memories))
        if kind is TransformerXLConfig:
            expected.append(core.final_norm(block(layer, x[now], wrote)))
            continue
        stream = gates(layer.join, x[now], wrote)
        half = layer.feed_forward(layer.feed_forward_norm(stream))
        expected.append(core.final_norm(gates(layer.join_feed_forward, stream, half)))
    found = outputs(core, x)
    torch.testing.assert_close(found.y[0], torch.stack(expected))
    assert found.trace[0].live[0].tolist() == [min(now, window) + 1 for now in range(STEPS)]
    assert bool((found.trace[0].lifetime == window + 1).all())


@pytest.mark.parametrize("window", [5, 50])
def test_adaptive_span_masks_each_head_by_its_span(window: int) -> None:
    core = made(AdaptiveSpanConfig(**SHAPE, window=window, ramp=3.0))
    layer = core.layers[0]
    assert isinstance(layer, AdaptiveLayer)
    layer.share.data.copy_(torch.tensor([0.1, 0.38]))
    x = episode()
    spans = [0.1 * window, 0.38 * window]
    expected, live = [], []
    for now in range(STEPS):
        memories = []
        for then in range(max(now - window, 0), now + 1):
            masks = [min(max(1 + (span - (now - then)) / 3.0, 0.0), 1.0) for span in spans]
            memories.append((x[then], now - then, masks))
        live.append(sum(any(masks) for _, _, masks in memories))
        expected.append(core.final_norm(block(layer, x[now], layer.output(read(layer, x[now], memories)))))
    found = outputs(core, x)
    torch.testing.assert_close(found.y[0], torch.stack(expected))
    assert found.losses["span"].item() == pytest.approx(STEPS * sum(spans) / 2)
    assert found.trace[0].live[0].tolist() == live


@pytest.mark.parametrize(("longest", "reach"), [(3.0, 3), (2.5, 2), (0.5, 0)])
def test_no_head_of_a_cut_core_sees_further(longest: float, reach: int) -> None:
    core = made(AdaptiveSpanConfig(**SHAPE, window=20, ramp=3.0)).cut(longest)
    found = outputs(core, episode())
    assert int(found.trace[0].live.max()) == reach + 1
    assert bool((found.trace[0].lifetime == reach + 1).all())


def test_adaptive_spans_learn_and_stay_within_the_window() -> None:
    core = made(AdaptiveSpanConfig(**SHAPE, window=20, ramp=3.0))
    assert isinstance(core, AdaptiveSpan)
    layer = next(core.adaptive())
    layer.share.data.copy_(torch.tensor([0.2, 0.9]))
    (gradient,) = torch.autograd.grad(outputs(core, episode()).y.sum(), [layer.share])
    assert bool((gradient != 0).all())  # both have memories on their ramp
    layer.share.data.copy_(torch.tensor([-0.2, 1.7]))
    core.controller(None).step(0.5)
    assert layer.share.tolist() == [0, 1]
    (gradient,) = torch.autograd.grad(outputs(core, episode()).losses["span"], [layer.share])
    assert bool((gradient > 0).all())


@pytest.mark.parametrize(("window", "compressed", "rate"), [(4, 3, 3), (0, 2, 4), (3, 40, 2), (6, 2, 1)])
def test_the_compressive_transformer_keeps_blocks_that_have_left_the_window(
    window: int, compressed: int, rate: int
) -> None:
    core = made(CompressiveConfig(**SHAPE, window=window, compressed=compressed, rate=rate))
    layer = core.layers[0]
    assert isinstance(layer, CompressiveLayer)
    x = episode()
    raw: list[int] = []
    made_of: list[tuple[int, Tensor]] = []
    expected, lost, live = [], torch.zeros((), dtype=torch.float64), []
    for now in range(STEPS):
        raw.append(now)
        if len(raw) >= rate and now - raw[rate - 1] > window:
            steps, raw = raw[:rate], raw[rate:]
            memory = layer.compress(torch.cat([x[step] for step in steps]))
            made_of = [*made_of, (steps[-1], memory)][-compressed:]
            lost = lost + apart(layer, x[now], [x[step] for step in steps], memory)
        memories = [(x[then], now - then, [1.0, 1.0]) for then in raw]
        for rank, (_, memory) in enumerate(reversed(made_of)):
            memories.append((memory, window + rate + rank, [1.0, 1.0]))
        live.append(len(memories))
        expected.append(core.final_norm(block(layer, x[now], layer.output(read(layer, x[now], memories)))))
    found = outputs(core, x)
    torch.testing.assert_close(found.y[0], torch.stack(expected))
    torch.testing.assert_close(found.losses["reconstruction"], lost)
    assert found.trace[0].live[0].tolist() == live


def apart(layer: Any, x: Tensor, steps: list[Tensor], memory: Tensor) -> Tensor:
    """How far apart what is read from a block and from its compressed memory are, without positions."""
    size, parts = WIDTH // HEADS, []
    query, _, _ = layer.query_key_value(layer.norm(x)).chunk(3)
    rows = [layer.query_key_value(layer.norm(step)).chunk(3) for step in steps]
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        shares = torch.softmax(torch.stack([query[part] @ key[part] / size**0.5 for _, key, _ in rows]), 0)
        parts.append(torch.stack([s * value[part] for s, (_, _, value) in zip(shares, rows, strict=True)]).sum(0))
    _, _, value = layer.query_key_value(layer.norm(memory)).chunk(3)
    return (torch.cat(parts) - value).square().mean()


def test_what_compression_loses_teaches_the_compression_alone() -> None:
    core = made(CompressiveConfig(**SHAPE, window=4, compressed=3, rate=3))
    found = outputs(core, episode())
    of_compression = {f"layers.0.compress.{name}" for name in ("weight", "bias")}
    for value, wanted in ((found.losses["reconstruction"], True), (found.y.sum(), False)):
        names, parameters = zip(*core.named_parameters(), strict=True)
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        moved = {name for name, grad in zip(names, gradients, strict=True) if grad is not None and grad.any()}
        assert (moved == of_compression) if wanted else not moved & of_compression


def test_the_minimal_gru_is_its_loop() -> None:
    core = made(MinGRUConfig(layers=1, width=WIDTH, ff_width=9))
    layer, x = core.layers[0], episode()
    assert isinstance(layer, MinGRULayer)
    h, expected = torch.zeros(WIDTH, dtype=torch.float64), []
    for step in x:
        gate, candidate = layer.gate_candidate(layer.norm(step)).chunk(2)
        gate = torch.sigmoid(gate)
        h = (1 - gate) * h + gate * candidate
        expected.append(core.final_norm(block(layer, step, layer.output(h))))
    found = outputs(core, x)
    torch.testing.assert_close(found.y[0], torch.stack(expected))
    torch.testing.assert_close(found.state.hidden[0, 0], h)


@pytest.mark.parametrize("steps", [37, 150])
def test_the_gated_delta_net_is_its_loop(steps: int) -> None:
    core = made(GatedDeltaNetConfig(**SHAPE, convolution=3))
    layer, x = core.layers[0], episode(steps)
    assert isinstance(layer, GatedDeltaNetLayer)
    heads, size = 2, WIDTH // 2
    matrices = [torch.zeros(size, size, dtype=torch.float64) for _ in range(heads)]
    identity, rows, expected = torch.eye(size, dtype=torch.float64), [], []
    for step in x:
        inner = layer.norm(step)
        rows.insert(0, layer.query_key_value(inner))
        mixed = nn.functional.silu(torch.stack([w * r for w, r in zip(layer.mix, rows, strict=False)]).sum(0))
        query, key, value = mixed.chunk(3)
        fade, write = layer.fade_write(inner).chunk(2)
        read = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            q, k = (row[part] / row[part].norm() for row in (query, key))
            keep = torch.exp(-layer.log_rate[h].exp() * nn.functional.softplus(fade[h]))
            b = torch.sigmoid(write[h])
            matrices[h] = keep * matrices[h] @ (identity - b * torch.outer(k, k)) + b * torch.outer(value[part], k)
            o = matrices[h] @ q
            read.append(o / (o.square().mean() + torch.finfo(o.dtype).eps).sqrt() * layer.read_norm.weight)
        gated = torch.cat(read) * nn.functional.silu(layer.gate(inner))
        expected.append(core.final_norm(block(layer, step, layer.output(gated))))
    found = outputs(core, x)
    torch.testing.assert_close(found.y[0], torch.stack(expected))
    torch.testing.assert_close(found.state.matrix[0, 0], torch.stack(matrices))
