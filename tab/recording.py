"""Episodes recorded during training, for the Memory tab."""

import warnings
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch.utils.tensorboard import SummaryWriter

from ..agents.callbacks import MemoryCallback
from ..agents.learn.on_policy import MemoryOnPolicyAlgorithm
from ..agents.vec_env import seen_by_policies
from ..analysis.evaluation import record_episode
from ..analysis.pictures.filmstrip import draw_filmstrip
from ..analysis.pictures.timeline import draw_timeline
from ..checks import check_whole
from ..envs import make_viewed
from ..envs.make import step_limit
from .summary import write_episode

LONGEST, WITHOUT_LIMIT = 10_000, 1_000
"""Most steps of a recorded episode, where the environment names a limit of its own and where it does not."""


class RecordEpisodes(MemoryCallback):
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
        self._periods_recorded, self._recorded_at, self._frames, self._failed = 0, -1, True, False

    def _on_training_start(self) -> None:
        self._periods_recorded = self.model.num_timesteps // self.every
        if not self.model.policy.core.keeps_memories:
            core = self.model.policy.core_config.name
            warnings.warn(
                f"RecordEpisodes records nothing: the core {core} keeps no memories of single steps",
                stacklevel=2,
            )
            return
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
        if self._env is None or self._failed:
            return
        try:
            self._write_episode(self._env)
        except Exception as error:  # the training is worth more than a picture of it
            self._failed = True
            warnings.warn(
                f"RecordEpisodes records nothing more, training goes on: {type(error).__name__}: {error}", stacklevel=2
            )

    def _write_episode(self, env: gym.Env) -> None:
        self._recorded_at = step = self.model.num_timesteps
        trace = record_episode(
            self.model.policy,
            env,
            self.seed,
            self.deterministic,
            attention=True,
            frames=self._frames,
            max_steps=self.max_steps or (LONGEST if step_limit(env) else WITHOUT_LIMIT),
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
