"""What happens beside training: checkpoints, a clean stop, the timeline picture, a line of progress."""

import signal
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from tqdm import tqdm

from ..memory.filmstrip import draw_filmstrip
from ..memory.tab.summary import write_episode
from ..memory.timeline import draw_timeline
from .checkpoint import read_checkpoint, replace_by_copy
from .evaluation import record_episode
from .on_policy import MemoryOnPolicyAlgorithm


class _MemoryCallback(BaseCallback):
    model: MemoryOnPolicyAlgorithm  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's


class CheckpointCallback(_MemoryCallback):
    """Saves between updates, when the state of training is whole, and stops there when asked to.

    Of the checkpoints saved so far, `best` is a copy of the one whose latest training episodes earned most on average,
    of equal ones the newest.  The first Ctrl-C finishes the rollout and its update, saves and stops; a second one stops
    at once.
    """

    def __init__(self, path: Path, best: Path, every: int) -> None:
        super().__init__()
        self.path, self.best, self.every = path, best, every
        self.stopping = self.stopped = False
        self.saved_at = 0
        self._next = 0
        self._standing = (0, 0.0)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: ask for a stop, and give the signal back its usual effect."""
        self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self.every
        if self.best.is_file():
            self._standing = standing(read_checkpoint(self.best)[1]["episodes"])

    def _on_rollout_start(self) -> None:
        # Called before the first step of a rollout: the update after the last one is done.
        if self.stopping or self.model.num_timesteps >= self._next:
            self.save()
            self._next = self.saved_at + self.every
            self.stopped = self.stopping

    def save(self) -> None:
        """Write a checkpoint now."""
        self.model.save(self.path)
        self.saved_at = self.model.num_timesteps
        now = standing(self.model.ep_info_buffer or ())
        if now >= self._standing:
            self._standing = now
            replace_by_copy(self.path, self.best)

    def _on_step(self) -> bool:
        return not self.stopped


def standing(episodes: Collection[Mapping[str, Any]]) -> tuple[int, float]:
    """By what checkpoints are compared: the number of SB3's records of episodes first, as few say little; their return.

    All but the first checkpoints have as many as SB3 keeps, 100 unless told otherwise.
    """
    returns = [episode["r"] for episode in episodes]
    return len(returns), float(np.mean(returns)) if returns else 0.0


class TimelineCallback(_MemoryCallback):
    """Plays one evaluation episode every so many steps and records it in TensorBoard's event file.

    Its pictures go to `memory/timeline` and, where the environment can be seen, `memory/filmstrip` (of the last step);
    the episode itself to the Memory tab.
    """

    def __init__(self, make_env: Callable[[], gym.Env], every: int, seed: int) -> None:
        super().__init__()
        self.make_env, self.every, self.seed = make_env, every, seed
        self._recorded = 0

    def _periods(self) -> int:
        return self.model.num_timesteps // self.every if self.every else 0

    def _on_training_start(self) -> None:
        self._recorded = self._periods()

    def _on_rollout_start(self) -> None:
        if self._periods() == self._recorded:
            return
        self._recorded, step = self._periods(), self.model.num_timesteps
        env = self.make_env()
        trace = record_episode(self.model.policy, env, self.seed, attention=True, frames=True)
        env.close()
        title = f"step {step}, return {trace.rewards.sum():g}"
        pictures = {"timeline": draw_timeline(trace, title)}
        if trace.frames is not None:
            pictures["filmstrip"] = draw_filmstrip(trace, len(trace.frames) - 1, title)
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                for name, picture in pictures.items():
                    output.writer.add_figure(f"memory/{name}", picture, step)
                write_episode(output.writer, trace, str(self.seed), step)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        # After the last update no rollout starts.
        self._on_rollout_start()


class ProgressCallback(_MemoryCallback):
    """A bar with steps per second, return, success and live memories."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self._bar: tqdm | None = None
        self._begun = (0, 0.0)

    def _on_training_start(self) -> None:
        self._bar = tqdm(total=self.total, initial=self.num_timesteps, unit="step", unit_scale=True, dynamic_ncols=True)
        self._begun = (self.num_timesteps, time.perf_counter())

    def _on_rollout_start(self) -> None:
        if self._bar is None:
            return
        steps, begun = self._begun
        rate = (self.num_timesteps - steps) / max(time.perf_counter() - begun, 1e-9)
        shown: dict[str, Any] = {"steps/s": f"{rate:.0f}"}
        if self.model.ep_info_buffer:
            shown["return"] = f"{np.mean([episode['r'] for episode in self.model.ep_info_buffer]):.2f}"
        if self.model.ep_success_buffer:
            shown["success"] = f"{np.mean(self.model.ep_success_buffer):.0%}"
        live = [v for k, v in self.logger.name_to_value.items() if k.startswith("memory/live_layer_")]
        if live:
            shown["live"] = "/".join(f"{value:.0f}" for value in live)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(min(self.num_timesteps, self.total) - self._bar.n)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._on_rollout_start()
        if self._bar is not None:
            self._bar.close()
