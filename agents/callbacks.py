"""What happens beside training: checkpoints, a clean stop, a line of progress."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from tqdm import tqdm

from .. import processes
from .checkpoint.file import read_checkpoint, replace_by_copy, write_checkpoint
from .checkpoint.model import describe, own_part
from .learn.on_policy import MemoryOnPolicyAlgorithm

MARGIN = 0.1
"""How far above its budget a layer's mean live memories may lie to be called within it: rollouts differ."""


class MemoryCallback(BaseCallback):
    """A callback of an algorithm with memory."""

    model: MemoryOnPolicyAlgorithm  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's


class CheckpointCallback(MemoryCallback):
    """Saves between updates, when the state of training is whole, and stops there when asked to.

    Of the checkpoints saved so far, `best` is a copy of the one whose latest training episodes earned most on average,
    of equal ones the newest; the first of a new stage replaces it, as returns of other tasks can't be compared.  A
    stop that is asked for finishes the rollout and its update, saves and stops.  Several processes stop together, and
    the first of them writes what all need to continue.
    """

    def __init__(self, path: Path, best: Path, every: int) -> None:
        super().__init__()
        self.path, self.best, self.every = path, best, every
        self.stop = processes.Stop()
        self.stopped = False
        self.saved_at = 0
        self._next = 0
        self._standing = (0, 0.0)

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self.every
        self._standing = (0, 0.0)
        best = read_checkpoint(self.best)[1] if self.best.is_file() else None
        if best is not None and best.get("stage", 1) == self.model.stage:
            self._standing = standing(best["episodes"])

    def _on_rollout_start(self) -> None:
        # Called before the first step of a rollout: the update after the last one is done.
        stopping = self.stop.agree()
        if stopping or self.model.num_timesteps >= self._next:
            self.save()
            self._next = self.saved_at + self.every
            self.stopped = stopping

    def save(self) -> None:
        """Write a checkpoint now, and before it what has been logged: training would go on past what is lost."""
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                with suppress(OSError):  # the checkpoint may still find room
                    output.writer.flush()
        self.saved_at = self.model.num_timesteps
        now = standing(self.model.ep_info_buffer or ())
        parts = processes.gathered(own_part(self.model)) if processes.count() > 1 else []
        if processes.rank() == 0:
            write_checkpoint(self.path, *describe(self.model, parts[1:]))
            if now >= self._standing:
                replace_by_copy(self.path, self.best)
        self._standing = max(now, self._standing)
        processes.gathered(None)  # the others go on once it is written

    def _on_step(self) -> bool:
        return not self.stopped


def standing(episodes: Collection[Mapping[str, Any]]) -> tuple[int, float]:
    """By what checkpoints are compared: the number of SB3's records of episodes first, as few say little; their return.

    All but the first checkpoints have as many as SB3 keeps, 100 unless told otherwise.
    """
    returns = [episode["r"] for episode in episodes]
    return len(returns), float(np.mean(returns)) if returns else 0.0


class ProgressCallback(MemoryCallback):
    """A bar with steps per second, return, success and live memories beside the budget for them.

    Its `total` steps are counted from the beginning of the model's present stage.
    """

    def __init__(self, total: int, title: str = "") -> None:
        super().__init__()
        self.total, self.title = total, title
        self.live: list[float] = []
        """Mean live memories of each layer in the latest update."""
        self._bar: tqdm | None = None
        self._begun = (0, 0.0)

    def _on_training_start(self) -> None:
        done, title = self.num_timesteps - self.model.stage_began, self.title or None
        self._bar = tqdm(desc=title, total=self.total, initial=done, unit="step", unit_scale=True, dynamic_ncols=True)
        self._begun = (self.num_timesteps, time.perf_counter())

    def _on_rollout_start(self) -> None:
        if self._bar is None:
            return
        steps, begun = self._begun
        rate = (self.num_timesteps - steps) / max(time.perf_counter() - begun, 1e-9)
        live = [v for k, v in self.logger.name_to_value.items() if k.startswith("memory/live_layer_")]
        self.live = live or self.live
        shown = {"steps/s": f"{rate:.0f}", **self._scores()}
        if self.live:
            budget = self._budget()
            shown["live"] = "/".join(f"{value:.0f}" for value in self.live) + (f" of {budget:g}" if budget else "")
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(min(self.num_timesteps - self.model.stage_began, self.total) - self._bar.n)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._on_rollout_start()
        self.close()

    def close(self) -> None:
        """End the bar's line, so that what is printed next begins a new one."""
        if self._bar is not None:
            self._bar.close()

    def _budget(self) -> float | None:
        """Live memories per layer that training aims at."""
        return None if self.model.controller is None else self.model.controller.budget

    def _scores(self) -> dict[str, str]:
        """Mean return and success of the latest episodes, at most 100 unless SB3 was told otherwise."""
        scores = {}
        if self.model.ep_info_buffer:
            scores["return"] = f"{np.mean([episode['r'] for episode in self.model.ep_info_buffer]):.2f}"
        if self.model.ep_success_buffer:
            scores["success"] = f"{np.mean(self.model.ep_success_buffer):.0%}"
        return scores

    def closing_lines(self) -> Iterator[str]:
        """Where training stands: what the latest episodes earned, and what is held beside what was asked for."""
        episodes = len(self.model.ep_info_buffer or ())
        scores = ", ".join(f"{name} {value}" for name, value in self._scores().items())
        yield f"  {scores} (mean of the last {episodes} episodes)" if scores else "  no episode has ended yet"
        if not self.live:
            return
        held = " and ".join(f"{value:.0f}" for value in self.live)
        budget = self._budget()
        if budget is None:
            yield f"  {held} live memories per layer; no budget was asked for"
        elif max(self.live) <= budget * (1 + MARGIN):
            yield f"  {held} live memories per layer, within the budget of {budget:g}"
        else:
            yield f"  {held} live memories per layer: the budget of {budget:g} is not met yet"
