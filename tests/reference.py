"""Expire-Span as the paper writes it, step by step in loops: the yardstick of the core's fourth law.

Memories are kept in a list; the mask is multiplied into the softmax, which is then renormalised; the penalty is charged
memory by memory; the capacity evicts one memory at a time.  Slow and literal on purpose.
"""

import math
from dataclasses import dataclass

import torch
from expirespan.memory.expire_span.core import ExpireSpan
from expirespan.memory.expire_span.layer import ExpireSpanLayer
from torch import Tensor, nn


@dataclass
class Memory:
    hidden: Tensor
    """The layer's input."""
    birth: int


def reference_layer(
    layer: ExpireSpanLayer, inputs: list[Tensor], times: list[int], longest: float | None = None
) -> tuple[list[Tensor], Tensor, list[Memory], int]:
    """Outputs of one row's steps, the penalty, the memories left, and how many were evicted."""
    memories: list[Memory] = []
    outputs, penalty, evictions = [], torch.zeros((), dtype=inputs[0].dtype), 0
    for x, now in zip(inputs, times, strict=True):
        if now == 0:
            memories = []
        memories.append(Memory(x, now))
        masks = []
        for memory in memories:
            e = predicted_span(layer, memory, longest)
            m = torch.clamp(1 + (e - (now - memory.birth)) / layer.config.ramp, 0, 1)
            masks.append(m)
            if 0 < m.item() < 1:
                penalty = penalty + e / layer.config.ramp
        outputs.append(transform(layer, x, read_memories(layer, x, memories, masks, now)))
        memories, evicted = left_after(layer, memories, now)
        evictions += evicted
    return outputs, penalty, memories, evictions


def normed(layer: ExpireSpanLayer, x: Tensor) -> Tensor:
    """What queries, keys, values and spans are made from."""
    return layer.norm(x) if layer.config.pre_norm else x


def predicted_span(layer: ExpireSpanLayer, memory: Memory, longest: float | None = None) -> Tensor:
    """The span of a memory, clamped to `longest` if given."""
    logit = (layer.span.weight * normed(layer, memory.hidden)).sum() / layer.config.pre_div + layer.span.bias
    predicted = layer.config.max_span / (1 + torch.exp(-logit))
    return predicted if longest is None else torch.clamp(predicted, max=longest)


def read_memories(layer: ExpireSpanLayer, x: Tensor, memories: list[Memory], masks: list[Tensor], now: int) -> Tensor:
    """What attention reads at one step, all heads side by side, and then the count of each."""
    config = layer.config
    query_w, key_w, value_w = layer.query_key_value.weight.split(config.width)
    query_b, key_b, value_b = layer.query_key_value.bias.split(config.width)
    head_width = config.width // config.heads
    read, counts = [], []
    for h in range(config.heads):
        part = slice(h * head_width, (h + 1) * head_width)
        q = (query_w @ normed(layer, x) + query_b)[part]
        scores, values = [], []
        for memory in memories:
            score = q @ (key_w @ normed(layer, memory.hidden) + key_b)[part]
            age = now - memory.birth
            if layer.position is not None and age < config.position_window:
                score = score + q @ layer.position[h, :, age]
            score = score / head_width**0.5
            if layer.age_weight is not None:
                score = score + 10 * layer.age_weight[h, min(age, config.position_window)]
            scores.append(score)
            values.append((value_w @ normed(layer, memory.hidden) + value_b)[part])
        counts.append(4 * torch.log((torch.exp(torch.stack(scores)) * torch.stack(masks)).sum()))
        attention = torch.softmax(torch.stack(scores), 0) * torch.stack(masks)
        attention = attention / attention.sum()
        read.append(sum(a * v for a, v in zip(attention, values, strict=True)))
    return torch.cat([*read, torch.stack(counts)])


def transform(layer: ExpireSpanLayer, x: Tensor, read: Tensor) -> Tensor:
    """The output of a step from its input and from what attention read."""
    attended = x + layer.output(read)
    if layer.config.pre_norm:
        return attended + layer.feed_forward(layer.feed_forward_norm(attended))
    attended = layer.norm(attended)
    return layer.feed_forward_norm(attended + layer.feed_forward(attended))


def left_after(layer: ExpireSpanLayer, memories: list[Memory], now: int) -> tuple[list[Memory], int]:
    """The memories that the next step can still see, and how many the capacity evicted: one or none."""
    config = layer.config
    spans = [predicted_span(layer, memory).item() for memory in memories]
    alive = [(e, memory) for e, memory in zip(spans, memories, strict=True) if now + 1 - memory.birth < e + config.ramp]
    evicted = 0
    if config.capacity is not None:
        newest = min(math.ceil(config.ramp), config.capacity // 2)
        old = [(e, memory) for e, memory in alive if memory.birth <= now - newest]
        if len(old) > config.capacity - newest:
            alive.remove(min(old, key=lambda pair: (math.ceil(pair[0] + config.ramp) + pair[1].birth, pair[1].birth)))
            evicted = 1
    return [memory for _, memory in alive], evicted


def reference_core(
    core: ExpireSpan, x: Tensor, resets: Tensor, longest: float | None = None
) -> tuple[Tensor, Tensor, list[list[list[Memory]]], int]:
    """Y [B, T, D], the penalty, the memories left as [row][layer], and evictions, starting from nothing."""
    rows, penalty, left, evictions = [], torch.zeros((), dtype=x.dtype), [], 0
    for b in range(x.shape[0]):
        times, now = [], -1
        for reset in resets[b].tolist():
            now = 0 if reset else now + 1
            times.append(now)
        stream = list(x[b])
        left.append([])
        for layer in core.layers:
            assert isinstance(layer, ExpireSpanLayer)
            stream, charged, memories, evicted = reference_layer(layer, stream, times, longest)
            penalty, evictions = penalty + charged, evictions + evicted
            left[-1].append(memories)
        rows.append(torch.stack([core.final_norm(y) for y in stream]))
    return torch.stack(rows), penalty, left, evictions


def randomize(module: nn.Module, seed: int) -> None:
    """Weights far from their tidy initial values, so that every term of a formula matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        size = 0.4 if parameter.dim() < 2 else 0.025 if name.endswith("age_weight") else 0.25
        parameter.data.add_(noise * size)
