"""The record of one episode: which memories each layer wrote, how long they stayed, and what happened meanwhile.

Built step by step from what a core says about itself (`LayerTrace`), so it works for every core that has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .core import LayerTrace


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


@dataclass(frozen=True, kw_only=True)
class EpisodeTrace:
    """One recorded episode of T steps."""

    layers: tuple[LayerRecord, ...]
    relevant: np.ndarray
    """Whether the observation of each step carries what a later step needs, as the environment says; bool [T]."""
    rewards: np.ndarray
    actions: np.ndarray

    def remembered(self, step: int) -> np.ndarray:
        """The steps whose memory is live at `step` in at least one layer, in order."""
        written = np.arange(step + 1)
        live = [layer.deleted[: step + 1] > step for layer in self.layers]
        return written[np.any(live, axis=0)]


@dataclass
class EpisodeRecorder:
    """Collects the steps of one episode played with a batch of one row."""

    _layers: list[tuple[LayerTrace, ...]] = field(default_factory=list)
    _relevant: list[bool] = field(default_factory=list)
    _rewards: list[float] = field(default_factory=list)
    _actions: list[object] = field(default_factory=list)

    def add(self, trace: Sequence[LayerTrace], relevant: bool, action: object, reward: float) -> None:
        """One step: what the core kept ([1, 1] tensors), and what the environment showed and answered."""
        self._layers.append(tuple(trace))
        self._relevant.append(relevant)
        self._actions.append(action)
        self._rewards.append(reward)

    def finish(self) -> EpisodeTrace:
        """The whole episode.  Raises ValueError where no step was added."""
        if not self._layers:
            raise ValueError("Expect an episode of at least 1 step, actual: 0")
        return EpisodeTrace(
            layers=tuple(self._layer(number) for number in range(len(self._layers[0]))),
            relevant=np.array(self._relevant),
            rewards=np.array(self._rewards),
            actions=np.array(self._actions),
        )

    def _layer(self, number: int) -> LayerRecord:
        steps = [step[number] for step in self._layers]
        written = np.arange(len(steps))
        lifetime = np.array([step.lifetime.item() for step in steps])
        deleted = np.minimum(written + lifetime, len(steps))
        evicted = np.zeros(len(steps), dtype=bool)
        for now, step in enumerate(steps):
            birth = int(step.evicted.item())
            if birth >= 0:
                deleted[birth], evicted[birth] = now + 1, True
        return LayerRecord(
            span=np.array([step.span.item() for step in steps]),
            deleted=deleted,
            evicted=evicted,
            live=np.array([step.live.item() for step in steps]),
        )
