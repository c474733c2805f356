"""The record of one episode: which memories each layer wrote, how long they stayed, and what happened meanwhile.

Of a sequence model it is a stretch of tokens (sequence.py).  Built from what a core says about itself (`LayerTrace`),
so it works for every core that has one.  On disk it is one NumPy archive (storage.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..memory.core import AttentionTrace, LayerTrace

LEAST_WEIGHT = 0.01
"""Attention weights below this are not recorded: those of an episode would grow with the square of its length."""


@dataclass(frozen=True, kw_only=True)
class AttentionRecord:
    """What the steps attended to in one layer, as N pairs of steps, in the order of the queries.

    Weights below `LEAST_WEIGHT` are left out, so that those of one query add up to at most 1.
    """

    query: np.ndarray
    """Step that attended; int32 [N]."""
    memory: np.ndarray
    """Step that wrote the memory; int32 [N]."""
    weight: np.ndarray
    """Share of the memory in what the step read, the mean over heads; float32 [N]."""


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """The memories of one layer; entry i is the memory written at step i of the episode, arrays are [T]."""

    span: np.ndarray
    """Predicted span in steps."""
    deleted: np.ndarray
    """First step at which the memory is gone; at most the length of the episode."""
    evicted: np.ndarray
    """Whether the capacity pushed it out before it expired."""
    live: np.ndarray
    """Live memories at step i."""
    attention: AttentionRecord | None = None
    """What each step attended to; None where it was not asked for."""

    @property
    def expired(self) -> np.ndarray:
        """Whether it was deleted because its span had passed; what neither expired nor was evicted lived to the end."""
        return ~self.evicted & (self.deleted < len(self.deleted))


@dataclass(frozen=True, kw_only=True)
class EpisodeTrace:
    """One recorded episode of T steps."""

    layers: tuple[LayerRecord, ...]
    relevant: np.ndarray
    """Whether the observation of each step carries what a later step needs, as the environment says; bool [T]."""
    rewards: np.ndarray
    actions: np.ndarray
    action_names: tuple[str, ...] = ()
    """What the environment calls actions 0, 1, ...; empty where it does not name them."""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """The agent's estimate of what is still to be earned, discounted and in the units that it was trained in (rewards
    divided by the scale of returns); float32 [T], NaN where it gave none."""
    events: np.ndarray | None = None
    """What the environment says of the observation of each step in `info["event"]`, "" for nothing; unicode [T]."""
    frames: np.ndarray | None = None
    """Pictures of what the agent saw; uint8 [T, height, width, 3], or with one channel where they are grey."""
    labels: np.ndarray | None = None
    """The text of each step's token, which joined give what was read; unicode [T], "" for a part of a character whose
    last byte is still to come.  None where steps are not tokens."""
    value_name: str = "value"
    """What `values` are."""
    episode_end: str = ""
    """Why the episode ended: "terminated", "truncated", or "" where that was not recorded."""

    def __post_init__(self) -> None:
        if not len(self.values):
            object.__setattr__(self, "values", np.full(len(self.relevant), np.nan, dtype=np.float32))

    def remembered(self, step: int) -> np.ndarray:
        """The steps whose memory is live at `step` in at least one layer, in order."""
        written = np.arange(step + 1)
        live = [layer.deleted[: step + 1] > step for layer in self.layers]
        return written[np.any(live, axis=0)]


def in_color(pictures: np.ndarray) -> np.ndarray:
    """Pictures [..., height, width, 1 or 3] with three channels."""
    return pictures if pictures.shape[-1] == 3 else pictures.repeat(3, axis=-1)


@dataclass
class EpisodeRecorder:
    """Collects the steps of one episode played with a batch of one row."""

    action_names: tuple[str, ...] = ()
    _layers: list[tuple[LayerTrace, ...]] = field(default_factory=list)
    _attention: list[tuple[AttentionRecord | None, ...]] = field(default_factory=list)
    _relevant: list[bool] = field(default_factory=list)
    _rewards: list[float] = field(default_factory=list)
    _actions: list[object] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _events: list[str] = field(default_factory=list)
    _frames: list[np.ndarray | None] = field(default_factory=list)

    def add(
        self,
        trace: Sequence[LayerTrace],
        relevant: bool,
        action: object,
        reward: float,
        *,
        value: float = float("nan"),
        event: str = "",
        frame: np.ndarray | None = None,
    ) -> None:
        """One step: what the core kept ([1, 1] tensors), and what the environment showed and answered."""
        self._attention.append(tuple(strongest(layer.attention, len(self._layers)) for layer in trace))
        self._layers.append(
            tuple(layer if layer.attention is None else replace(layer, attention=None) for layer in trace)
        )
        self._relevant.append(relevant)
        self._actions.append(action)
        self._rewards.append(reward)
        self._values.append(value)
        self._events.append(event)
        self._frames.append(frame)

    def finish(self, episode_end: str = "") -> EpisodeTrace:
        """The whole episode.  Raises ValueError where no step was added."""
        if not self._layers:
            raise ValueError("Expect an episode of at least 1 step, actual: 0")
        frames = [frame for frame in self._frames if frame is not None]
        return EpisodeTrace(
            layers=layer_records(self._layers, self._attention),
            relevant=np.array(self._relevant),
            rewards=np.array(self._rewards),
            actions=np.array(self._actions),
            action_names=self.action_names,
            values=np.array(self._values, dtype=np.float32),
            events=np.array(self._events) if any(self._events) else None,
            frames=np.stack(frames) if len(frames) == len(self._layers) else None,
            episode_end=episode_end,
        )


def layer_records(
    traces: Sequence[Sequence[LayerTrace]], attention: Sequence[Sequence[AttentionRecord | None]]
) -> tuple[LayerRecord, ...]:
    """The record of each layer, from successive traces of one row and what is worth recording of their attention.

    The first step of the first trace is the only one of them that an episode begins at.
    """
    numbers = range(len(traces[0]))
    return tuple(_layer([part[n] for part in traces], [part[n] for part in attention]) for n in numbers)


def _layer(parts: Sequence[LayerTrace], attention: Sequence[AttentionRecord | None]) -> LayerRecord:
    lifetime = _series([part.lifetime for part in parts])
    steps = len(lifetime)
    deleted = np.minimum(np.arange(steps) + lifetime, steps)
    evicted, pushed_out = np.zeros(steps, dtype=bool), _series([part.evicted for part in parts])
    for now in np.flatnonzero(pushed_out >= 0).tolist():
        deleted[pushed_out[now]], evicted[pushed_out[now]] = now + 1, True
    return LayerRecord(
        span=_series([part.span for part in parts]),
        deleted=deleted,
        evicted=evicted,
        live=_series([part.live for part in parts]),
        attention=_joined(attention),
    )


def _series(parts: Sequence[Tensor]) -> np.ndarray:
    """Numbers of successive steps ([1, steps] tensors) as an array [T]."""
    return torch.cat([part.flatten() for part in parts]).cpu().numpy()


def strongest(attention: AttentionTrace | None, first: int) -> AttentionRecord | None:
    """The weights worth recording of the steps of a trace, which begins at the step `first` of its episode."""
    if attention is None:
        return None
    weight, birth = attention.weight[0].cpu().numpy(), attention.birth[0].cpu().numpy()
    query, slot = np.nonzero(weight >= LEAST_WEIGHT)
    return AttentionRecord(
        query=(first + query).astype(np.int32),
        memory=birth[slot].astype(np.int32),
        weight=weight[query, slot].astype(np.float32),
    )


def _joined(steps: Sequence[AttentionRecord | None]) -> AttentionRecord | None:
    """The weights of all steps; None where some step has none."""
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return None
    return AttentionRecord(
        query=np.concatenate([step.query for step in known]),
        memory=np.concatenate([step.memory for step in known]),
        weight=np.concatenate([step.weight for step in known]),
    )
