"""What an agent kept, as numbers of one or several episodes and as lines to read, of one run or of two side by side."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from . import numbers, usage
from .record import EpisodeTrace, LayerRecord

OLD = 50
"""Memories older than this many steps count as old."""
FOREMOST = 3
"""Memories listed of an episode."""


@dataclass(frozen=True, kw_only=True)
class LayerNumbers:
    """What one layer kept in one episode, or the means of that over episodes; NaN where nothing can be said."""

    live: float
    """Mean live memories."""
    lifetime: float
    """Mean steps that a memory was live."""
    half_life: float
    """Age in steps at which half of the memories were gone; infinite where they were not."""
    retention_score: float
    """Area under the ROC curve of spans for relevant steps."""
    precision: float
    """Share of relevant steps among as many longest spans as there are relevant steps."""
    recall: float
    """Share of the relevant steps among as many longest spans as the budget allows."""
    old_attention: float
    """Mean share of a step's attention that goes to old memories, once there can be any."""
    unused: float
    """Share of the memories kept beyond their own step that no later step attended to."""
    cut_short: float
    """Share of the expired memories that were still attended to on the last step that saw them."""


LINES = {
    "live": ("live memories, mean", "{:.1f}"),
    "lifetime": ("lifetime, mean steps", "{:.1f}"),
    "half_life": ("half of the memories gone after", "{:.0f}"),
    "retention_score": ("retention score", "{:.3f}"),
    "precision": ("longest spans that are relevant", "{:.0%}"),
    "recall": ("relevant steps within the budget", "{:.0%}"),
    "old_attention": (f"attention on memories over {OLD} steps", "{:.0%}"),
    "unused": ("kept, but never attended to", "{:.0%}"),
    "cut_short": ("attended to as they expired", "{:.0%}"),
}
"""The words and the form of each of the numbers of a layer."""


@dataclass(frozen=True, kw_only=True)
class Foremost:
    """One of the memories that stand out in an episode."""

    layer: int
    """From 1, as people count."""
    step: int
    label: str
    """Its event, else "relevant" or "other"."""
    span: float
    """As predicted."""
    lifetime: int
    """Steps for which it was live."""
    end: str
    """Why it went: "expired", "evicted" or "episode end"."""
    attention: float
    """What it got from all later steps together."""


@dataclass(frozen=True, kw_only=True)
class MemoryNumbers:
    """What was kept in some episodes."""

    episodes: int
    layers: tuple[LayerNumbers, ...]
    """Means over the episodes, but the median of half-lives."""
    lifetimes: dict[str, list[float]]
    """Mean lifetime in each layer by kind of step, over the episodes that have it."""
    agreement: float
    """Mean rank correlation between the spans of two layers; NaN for a single one."""
    longest_kept: list[Foremost]
    """Of the first episode, as are the most used; each memory once, in the layer that kept it longest."""
    most_used: list[Foremost]


def memory_numbers(traces: Sequence[EpisodeTrace], budget: int | None = None) -> MemoryNumbers:
    """The numbers of episodes recorded with attention; `budget` is how many spans count as kept.

    Without a budget as many count as there are relevant steps.  Raises ValueError where there is no episode.
    """
    if not traces:
        raise ValueError("Expect `traces` to hold at least 1 episode, actual: 0")
    each = [[layer_numbers(layer, trace.relevant, budget) for layer in trace.layers] for trace in traces]
    by_kind = [
        numbers.by_event(np.stack([numbers.lifetimes(layer) for layer in trace.layers]), numbers.event_labels(trace))
        for trace in traces
    ]
    kinds = sorted({kind for found in by_kind for kind in found})
    longest, used = foremost(traces[0])
    return MemoryNumbers(
        episodes=len(traces),
        layers=tuple(_mean_numbers(layers) for layers in zip(*each, strict=True)),
        lifetimes={kind: np.mean([f[kind] for f in by_kind if kind in f], axis=0).tolist() for kind in kinds},
        agreement=_mean([_agreement(trace) for trace in traces]),
        longest_kept=longest,
        most_used=used,
    )


def layer_numbers(layer: LayerRecord, relevant: np.ndarray, budget: int | None = None) -> LayerNumbers:
    """The numbers of one layer in one episode."""
    kept, expired = numbers.lifetimes(layer) > 1, layer.expired
    return LayerNumbers(
        live=float(layer.live.mean()),
        lifetime=float(numbers.lifetimes(layer).mean()),
        half_life=numbers.half_life(layer),
        retention_score=numbers.retention_score(layer.span, relevant),
        precision=numbers.precision_and_recall(layer.span, relevant).precision,
        recall=numbers.precision_and_recall(layer.span, relevant, budget).recall,
        old_attention=_mean(usage.attention_beyond(layer, OLD)[OLD + 1 :]),
        unused=_mean(usage.never_attended(layer)[kept]),
        cut_short=_mean(usage.attended_at_deletion(layer)[expired]),
    )


def foremost(trace: EpisodeTrace, count: int = FOREMOST) -> tuple[list[Foremost], list[Foremost]]:
    """The memories that were kept the longest, and those that were used the most, each at most once."""
    labels = numbers.event_labels(trace)
    memories = [memory for number, layer in enumerate(trace.layers, 1) for memory in _described(number, layer, labels)]
    by_lifetime = sorted(memories, key=lambda m: (-m.lifetime, -m.span))
    by_use = sorted((m for m in memories if m.attention > 0), key=lambda m: -m.attention)
    return _first_of_each_step(by_lifetime, count), _first_of_each_step(by_use, count)


def report_lines(numbers: MemoryNumbers) -> Iterator[str]:
    """The numbers as lines to read, one column a layer."""
    layers = len(numbers.layers)
    yield f"{_over(numbers.episodes):37}" + "".join(f"   layer {number}" for number in range(1, layers + 1))
    for name, (words, form) in LINES.items():
        yield f"  {words:35}" + "".join(f"{_said(getattr(layer, name), form):>10}" for layer in numbers.layers)
    for kind, means in numbers.lifetimes.items():
        yield f"  {'lifetime of ' + kind:35}" + "".join(f"{_said(mean, '{:.1f}'):>10}" for mean in means)
    if layers > 1:
        yield f"  {'agreement of the layers':35}{_said(numbers.agreement, '{:.2f}'):>10}"
    yield "  longest kept (first episode)"
    for memory in numbers.longest_kept:
        yield f"    {_place(memory)}: {memory.lifetime} steps, {_gone(memory)}"
    yield "  most used (first episode)"
    for memory in numbers.most_used:
        yield f"    {_place(memory)}: attention {memory.attention:.2f} in all, over {memory.lifetime} steps"


def comparison_lines(first: MemoryNumbers, second: MemoryNumbers, names: tuple[str, str]) -> Iterator[str]:
    """Two runs side by side: in each row the first run's layers, a bar, and the second's."""
    width = max(10 * max(len(first.layers), len(second.layers)), 12)
    yield f"{'':37}{_shortened(names[0], width):>{width}} |{_shortened(names[1], width):>{width}}"
    for name, (words, form) in LINES.items():
        sides = [[_said(getattr(layer, name), form) for layer in run.layers] for run in (first, second)]
        yield f"  {words:35}" + _sides(sides, width)
    for kind in sorted(first.lifetimes.keys() | second.lifetimes.keys()):
        sides = [[_said(mean, "{:.1f}") for mean in run.lifetimes.get(kind, ())] for run in (first, second)]
        yield f"  {'lifetime of ' + kind:35}" + _sides(sides, width)
    yield f"  {'agreement of the layers':35}" + _sides(
        [[_said(run.agreement, "{:.2f}")] for run in (first, second)], width
    )


def _described(number: int, layer: LayerRecord, labels: np.ndarray) -> list[Foremost]:
    ends = np.where(layer.evicted, "evicted", np.where(layer.expired, "expired", "episode end"))
    lifetimes, received = numbers.lifetimes(layer), usage.attention_received(layer)
    return [
        Foremost(
            layer=number,
            step=step,
            label=str(labels[step]),
            span=float(layer.span[step]),
            lifetime=int(lifetimes[step]),
            end=str(ends[step]),
            attention=float(received[step]),
        )
        for step in range(len(labels))
    ]


def _first_of_each_step(memories: Sequence[Foremost], count: int) -> list[Foremost]:
    first: dict[int, Foremost] = {}
    for memory in memories:
        first.setdefault(memory.step, memory)
    return list(first.values())[:count]


def _mean_numbers(layers: Sequence[LayerNumbers]) -> LayerNumbers:
    means = {field.name: _mean([getattr(layer, field.name) for layer in layers]) for field in fields(LayerNumbers)}
    means["half_life"] = float(np.median([layer.half_life for layer in layers]))  # infinite ones have no mean
    return LayerNumbers(**means)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of those that aren't NaN; NaN where there are none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _agreement(trace: EpisodeTrace) -> float:
    pairs = np.triu_indices(len(trace.layers), 1)
    return _mean(numbers.layer_agreement(trace)[pairs])


def _over(episodes: int) -> str:
    return f"memory over {episodes} episode" + "s" * (episodes > 1)


def _said(value: float, form: str) -> str:
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else form.format(value)


def _place(memory: Foremost) -> str:
    return f"layer {memory.layer}, step {memory.step} ({memory.label})"


def _gone(memory: Foremost) -> str:
    return "to the end of the episode" if memory.end == "episode end" else f"then {memory.end}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) < width else f"...{text[4 - width :]}"


def _sides(sides: Sequence[Sequence[str]], width: int) -> str:
    left, right = ("".join(f"{said:>10}" for said in side).rjust(width) for side in sides)
    return f"{left} |{right}"
