"""What happens beside training: checkpoints, a clean stop, recorded episodes, a line of progress."""

import signal
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..checks import check_whole
from ..envs import make_viewed
from ..envs.make import step_limit
from ..memory.filmstrip import draw_filmstrip
from ..memory.tab.summary import write_episode
from ..memory.timeline import draw_timeline
from .checkpoint import read_checkpoint, replace_by_copy
from .evaluation import record_episode
from .on_policy import MemoryOnPolicyAlgorithm
from .vec_env import seen_by_policies

LONGEST, WITHOUT_LIMIT = 10_000, 1_000
"""Most steps of a recorded episode, where the environment names a limit of its own and where it does not."""
MARGIN = 0.1
"""How far above its budget a layer's mean live memories may lie to be called within it: rollouts differ."""


class _MemoryCallback(BaseCallback):
    model: MemoryOnPolicyAlgorithm  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's


class CheckpointCallback(_MemoryCallback):
    """Saves between updates, when the state of training is whole, and stops there when asked to.

    Of the checkpoints saved so far, `best` is a copy of the one whose latest training episodes earned most on average,
    of equal ones the newest; the first of a new stage replaces it, as returns of other tasks can't be compared.  The
    first Ctrl-C finishes the rollout and its update, saves and stops; a second one stops at once.
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
        self._standing = (0, 0.0)
        best = read_checkpoint(self.best)[1] if self.best.is_file() else None
        if best is not None and best.get("stage", 1) == self.model.stage:
            self._standing = standing(best["episodes"])

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


class RecordEpisodes(_MemoryCallback):
    """Plays an evaluation episode every so many steps, and at the end of training, for TensorBoard's Memory tab.

    It writes where the model logs to, so the model needs `tensorboard_log=` (or a logger with a TensorBoard output).
    Its pictures go to `timeline/memories` and, where the environment can be seen, `timeline/frames` (of the last step);
    the episode itself to the Memory tab.

    Args:
        eval_env: A Gymnasium environment of its own, not one that is trained in, the id of one or a function that makes
            one.  Its observations are normalised as those of training are where that uses VecNormalize.
        every: Steps of training between episodes.
        seed: Of the environment and of the actions, the same every time.
        deterministic: Take the likeliest actions; otherwise they are drawn from the policy.
        max_steps: Longer episodes are cut off.  None for 10,000, or for 1,000 where the environment names no limit: an
            agent that has learned little may walk in circles there, and holds nearly every step it has seen.

    Raises:
        TypeError: Where `eval_env` is none of these.
        ValueError: As training begins, where its spaces are not those of training.
    """

    def __init__(
        self,
        eval_env: Any,
        every: int = 50_000,
        seed: int = 1_000_000,
        deterministic: bool = True,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(eval_env, gym.Env | str) and (isinstance(eval_env, VecEnv) or not callable(eval_env)):
            raise TypeError(
                "Expect `eval_env` to be a Gymnasium environment, the id of one or a function that makes one, "
                f"actual: {eval_env!r}"
            )
        self.eval_env, self.deterministic = eval_env, deterministic
        self.every = check_whole("every", every, at_least=1)
        self.seed = check_whole("seed", seed, at_least=0)
        self.max_steps = None if max_steps is None else check_whole("max_steps", max_steps, at_least=1)
        self._env: gym.Env | None = None
        self._periods_recorded, self._recorded_at, self._frames = 0, -1, True

    def _on_training_start(self) -> None:
        self._periods_recorded = self.model.num_timesteps // self.every
        if not self._writers():
            warnings.warn(
                "RecordEpisodes records nothing: the model writes nothing for TensorBoard; "
                "give it tensorboard_log=FOLDER, or a logger with a TensorBoardOutputFormat",
                stacklevel=2,
            )
            return
        env: Any = self.eval_env
        if not isinstance(env, gym.Env):
            env = make_viewed(env) if isinstance(env, str) else env()
        self._env = _as_in_training(env, self.model)

    def _on_rollout_start(self) -> None:
        if (periods := self.model.num_timesteps // self.every) > self._periods_recorded:
            self._periods_recorded = periods
            self._record()

    def _record(self) -> None:
        if self._env is None:
            return
        self._recorded_at = step = self.model.num_timesteps
        trace = record_episode(
            self.model.policy,
            self._env,
            self.seed,
            self.deterministic,
            attention=True,
            frames=self._frames,
            max_steps=self.max_steps or (LONGEST if step_limit(self._env) else WITHOUT_LIMIT),
        )
        self._frames = trace.frames is not None  # what can't be drawn once is not tried again
        title = f"step {step}, return {trace.rewards.sum():g}"
        pictures = {"memories": draw_timeline(trace, title)}
        if trace.frames is not None:
            pictures["frames"] = draw_filmstrip(trace, len(trace.frames) - 1, title)
        for writer in self._writers():
            for name, picture in pictures.items():
                writer.add_figure(f"timeline/{name}", picture, step)
            write_episode(writer, trace, str(self.seed), step)
            writer.flush()  # nothing may be logged after the last one

    def _writers(self) -> list[SummaryWriter]:
        return [output.writer for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps != self._recorded_at:
            self._record()
        if self._env is not None and not isinstance(self.eval_env, gym.Env):
            self._env.close()


class _Normalized(gym.ObservationWrapper):
    """Shows what a policy sees that was trained behind VecNormalize, with its statistics of the moment."""

    def __init__(self, env: gym.Env, normalize: VecNormalize) -> None:
        super().__init__(env)
        if _shapes(env.observation_space) != _shapes(normalize.observation_space):
            raise ValueError(
                f"Expect `eval_env` to have the observation space {normalize.observation_space}, "
                f"actual: {env.observation_space}"
            )
        self._normalize = normalize
        self.observation_space = normalize.observation_space  # its bounds and number type are not those of the raw one

    def observation(self, observation: Any) -> Any:
        return self._normalize.normalize_obs(observation)


def _shapes(space: spaces.Space) -> Any:
    """The shape of a space, or those of its parts by name."""
    return {name: _shapes(part) for name, part in space.items()} if isinstance(space, spaces.Dict) else space.shape


def _as_in_training(env: gym.Env, model: MemoryOnPolicyAlgorithm) -> gym.Env:
    """The environment with observations as the model gets them.  Raises ValueError where that can't be."""
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        env = _Normalized(env, normalize)
    seen = env.observation_space
    for name, theirs, ours in (
        ("observation", (seen, seen_by_policies(seen, model.policy.observations)), model.observation_space),
        ("action", (env.action_space,), model.action_space),
    ):
        if ours not in theirs:
            raise ValueError(f"Expect `eval_env` to have the {name} space {ours}, actual: {theirs[0]}")
    return env


class ProgressCallback(_MemoryCallback):
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
            budget = self.model.pressure.config.memory_budget if self.model.pressure.has_budget else None
            shown["live"] = "/".join(f"{value:.0f}" for value in self.live) + (f" of {budget:g}" if budget else "")
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(min(self.num_timesteps - self.model.stage_began, self.total) - self._bar.n)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._on_rollout_start()
        if self._bar is not None:
            self._bar.close()

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
        pressure = self.model.pressure
        budget = pressure.config.memory_budget if pressure.has_budget else None
        if budget is None:
            yield f"  {held} live memories per layer; no budget was asked for"
        elif max(self.live) <= budget * (1 + MARGIN):
            yield f"  {held} live memories per layer, within the budget of {budget:g}"
        else:
            yield f"  {held} live memories per layer: the budget of {budget:g} is not met yet"
