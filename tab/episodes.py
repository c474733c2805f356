"""The recorded episodes that TensorBoard has read, and what the tab asks of one."""

import math
from collections import OrderedDict
from dataclasses import asdict
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np
from tensorboard.data.provider import DataProvider, RunTagFilter

from ..analysis import storage
from ..analysis.record import EpisodeTrace, LayerRecord
from .raster import LayerBars
from .summary import PLUGIN_NAME, Listing

MOST_EPISODES = 8
"""Episodes kept unpacked."""
MOST_MEMORIES = 48
"""Live memories of a layer that a step lists."""
BEFORE, AFTER, LEAD = 60, 30, 6
"""Tokens shown before and after a step's, and before that of a memory."""
EVALUATION = "episodes"
"""Folder below a run's where expirespan-evaluate writes the events of its episodes: TensorBoard's run RUN/episodes."""


class Episode:
    """One recorded episode; frames and the bars of each layer are made ready when they are first asked for."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self.trace: EpisodeTrace = storage.from_bytes(data, name, frames=False)
        if not self.trace.layers:
            raise ValueError(f"Expect `{name}` to hold the memories of at least 1 layer, actual: 0")
        self._bars: dict[int, LayerBars] = {}
        self._lock = RLock()

    @cached_property
    def frames(self) -> np.ndarray | None:
        """Pictures of every step, uint8 [T, height, width, 3 or 1]; None where there are none."""
        return storage.frames_from_bytes(self._data, self._name)

    def bars(self, layer: int) -> LayerBars:
        """The bars of a layer, counted from 0."""
        with self._lock:
            if layer not in self._bars:
                self._bars[layer] = LayerBars.of(self.trace.layers[layer], self.trace.relevant)
            return self._bars[layer]

    def describe(self) -> dict[str, Any]:
        """What a timeline needs to know before it is drawn."""
        trace = self.trace
        return {
            "steps": len(trace.relevant),
            "start": telling_step(trace),
            "episode_end": trace.episode_end,
            "total_reward": _number(trace.rewards.sum()),
            "rewards": _range(trace.rewards),
            "has_events": trace.events is not None and bool((trace.events != "").any()),
            "has_frames": storage.has_frames(self._data),
            "has_labels": trace.labels is not None,
            "value_range": _range(trace.values),
            "value_name": trace.value_name,
            "relevant": np.flatnonzero(trace.relevant).tolist(),
            "layers": [self._describe_layer(number) for number in range(len(trace.layers))],
        }

    def _describe_layer(self, number: int) -> dict[str, Any]:
        layer, bars = self.trace.layers[number], self.bars(number)
        return {
            "rows": bars.rows,
            "most_live": int(layer.live.max()),
            "evictions": int(layer.evicted.sum()),
            "span": _range(layer.span),
            "attention": None if bars.received is None else _range(bars.received),
        }

    def describe_step(self, step: int) -> dict[str, Any]:
        """What the agent did at a step, and the memories that it had then."""
        trace = self.trace
        return {
            "step": step,
            "action": action_words(trace.actions[step], trace.action_names),
            "value": _number(trace.values[step]),
            "reward": _number(trace.rewards[step]),
            "relevant": bool(trace.relevant[step]),
            "event": "" if trace.events is None else str(trace.events[step]),
            "text": None if trace.labels is None else text_around(trace.labels, step, BEFORE, AFTER),
            "layers": [self._describe_memories(number, step) for number in range(len(trace.layers))],
        }

    def _describe_memories(self, number: int, step: int) -> dict[str, Any]:
        layer, bars = self.trace.layers[number], self.bars(number)
        live = np.flatnonzero(layer.deleted[: step + 1] > step)
        weight = attention_of(layer, step)
        # Where there are too many, the ones that are read, then the oldest: those that somebody decided to keep.
        chosen = np.sort(live[np.argsort(-weight[live], kind="stable")][:MOST_MEMORIES])
        return {
            "live": len(live),
            "attention": layer.attention is not None,
            "memories": [
                {
                    "written": int(memory),
                    "deleted": int(layer.deleted[memory]),
                    "fate": fate(layer, memory),
                    "span": _number(layer.span[memory]),
                    "weight": round(float(weight[memory]), 4),
                    "relevant": bool(self.trace.relevant[memory]),
                    "text": None if self.trace.labels is None else text_around(self.trace.labels, memory, LEAD, 0)[:2],
                    "row": int(bars.row[memory]),
                }
                for memory in chosen.tolist()
            ],
        }


def text_around(labels: np.ndarray, step: int, left: int, right: int) -> list[str]:
    """The text of some tokens before a step's, this token, and the text of some after it."""
    before, after = labels[max(0, step - left) : step], labels[step + 1 : step + 1 + right]
    return ["".join(before.tolist()), str(labels[step]), "".join(after.tolist())]


def attention_of(layer: LayerRecord, step: int) -> np.ndarray:
    """The weights that a step gave to the memories up to it, [step + 1]; 0 where none were recorded."""
    weight = np.zeros(step + 1)
    if layer.attention is not None:
        first, last = np.searchsorted(layer.attention.query, (step, step + 1))
        weight[layer.attention.memory[first:last]] = layer.attention.weight[first:last]
    return weight


def telling_step(trace: EpisodeTrace) -> int:
    """The step to open an episode at: the last one that the longest-lived memory of a relevant step is live at.

    Where no relevant step is remembered beyond itself, the longest-lived memory of any step decides.
    """
    written = np.arange(len(trace.relevant))
    deleted = np.max([layer.deleted for layer in trace.layers], axis=0)
    lifetime = deleted - written
    kept = trace.relevant & (lifetime > 1)
    return int(deleted[np.argmax(np.where(kept, lifetime, 0) if kept.any() else lifetime)]) - 1


def action_words(action: Any, names: tuple[str, ...]) -> str:
    """An action's name, "action 3" where it has none; the numbers of an action that is no whole number."""
    value = np.asarray(action)
    if value.ndim or value.dtype.kind == "f":
        short: Any = {"float_kind": lambda number: f"{number:.3g}"}
        return np.array2string(value, formatter=short, separator=", ", threshold=16, max_line_width=1000)
    number = int(value)
    return names[number] if 0 <= number < len(names) else f"action {number}"


def run_of(source: str) -> str:
    """The run that TensorBoard's run `source` belongs to: itself, or of RUN/episodes RUN ("." is the log directory)."""
    above, _, name = source.rpartition("/")
    return source if name != EVALUATION else above or "."


def fate(layer: LayerRecord, memory: int) -> str:
    """Why a memory went: evicted, expired, or the end of the episode."""
    if layer.evicted[memory]:
        return "evicted"
    return "expired" if layer.expired[memory] else "episode end"


class EpisodeStore:
    """Reads episodes through TensorBoard's data provider: nothing but what stands in the log directory's events."""

    def __init__(self, provider: DataProvider) -> None:
        self._provider: Any = provider  # its methods are untyped, and pyright takes them to return None
        self._recent: OrderedDict[tuple[str, str, str, float], Episode] = OrderedDict()
        self._lock = RLock()

    def listings(self, context: Any, experiment: str) -> dict[str, Any]:
        """Every episode's listing, and messages about those that can't be listed.

        A listing has its `tag`, TensorBoard's run as `source`, the run that it belongs to as `run` (`run_of`), and the
        `wall_time` in seconds at which it was written.
        """
        found = self._provider.list_tensors(context, experiment_id=experiment, plugin_name=PLUGIN_NAME)
        episodes, messages = [], []
        for source, tags in sorted(found.items()):
            for tag, series in sorted(tags.items()):
                try:
                    listing = Listing.from_json(series.plugin_content)
                except (ValueError, RecursionError) as error:
                    messages.append(f"{source}, {tag}: {error}")
                else:
                    place = {"run": run_of(source), "source": source, "tag": tag, "wall_time": series.max_wall_time}
                    episodes.append(place | asdict(listing))
        return {"episodes": episodes, "messages": messages}

    def episode(self, context: Any, experiment: str, run: str, tag: str) -> Episode:
        """One episode.  Raises KeyError where there is none, ValueError where it is damaged."""
        only = RunTagFilter(runs=[run], tags=[tag])
        request: dict[str, Any] = {"experiment_id": experiment, "plugin_name": PLUGIN_NAME, "run_tag_filter": only}
        series = self._provider.list_tensors(context, **request).get(run, {}).get(tag)
        if series is None:
            raise KeyError(f"no episode {tag} in run {run}")
        key = (experiment, run, tag, series.max_wall_time)
        # One at a time: the first drawing asks for many tiles of one episode at once.
        with self._lock:
            if key not in self._recent:
                self._recent[key] = Episode(self._read(context, request, run, tag), f"{tag} of run {run}")
            self._recent.move_to_end(key)
            while len(self._recent) > MOST_EPISODES:
                self._recent.popitem(last=False)
            return self._recent[key]

    def _read(self, context: Any, request: dict[str, Any], run: str, tag: str) -> bytes:
        """The bytes of an episode.  Raises ValueError where TensorBoard can't read them."""
        try:
            values = self._provider.read_tensors(context, downsample=1, **request)[run][tag]
            array = values[-1].numpy
        except Exception as error:  # of TensorBoard, whatever it makes of a damaged record
            raise ValueError(f"Expect `{tag}` of run {run} to be readable, actual: {error}") from error
        return _bytes(array)


def _bytes(array: Any) -> bytes:
    value = np.asarray(array).ravel()[:1].tolist()
    if not value or not isinstance(value[0], bytes):
        raise ValueError(f"Expect a recorded episode to be one string of bytes, actual: {np.asarray(array).dtype}")
    return value[0]


def _number(value: Any) -> float | None:
    """The value as JSON knows it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _range(values: np.ndarray) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(finite.min()), float(finite.max())] if len(finite) else None
