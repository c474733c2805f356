"""Collecting experience with memory: what the on-policy algorithms share."""

import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import (
    FloatSchedule,
    check_for_correct_spaces,
    get_system_info,
)
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor

from ... import processes
from ...checks import check_not_negative
from ...memory import Controller, PressureConfig, Record
from ..actions import check_action_space
from ..arguments import REFUSED, check_arguments, check_policy
from ..checkpoint.file import Target, read_checkpoint, under, write_checkpoint
from ..checkpoint.model import (
    check_policy_tensors,
    describe,
    load_optimizer,
    load_policy_tensors,
    named_as_in,
    policy_tensors,
    read_arguments,
    restore,
    stored_spaces,
    uncompiled,
)
from ..observations import kinds_of, kinds_of_pictures
from ..policy import MemoryActorCriticPolicy, SequenceEvaluation
from ..vec_env import as_vec_env, transposed
from .collecting import collect
from .config import (
    OnPolicyConfig,
    check_batch_size,
    minibatch_steps,
    pick,
    plain_numbers,
    plain_schedule,
    rollout_steps,
)
from .losses import deviation, explained_variance, normalized_advantages
from .reward_scale import RewardScale
from .rollout import SequenceBatch, SequenceRolloutBuffer
from .training_log import TrainingLog

ALL = Record.LOSSES | Record.TRACE | Record.FACTS
"""What is recorded in the first pass over a rollout, for the log and for the core's controller."""

SEEDS = 2**32
"""NumPy's global generator takes seeds below this."""

Algorithm = TypeVar("Algorithm", bound="MemoryOnPolicyAlgorithm")


class TrainingDiverged(ValueError):
    """Gradients are NaN or infinite: the step size is too large, or observations or rewards are."""


class MemoryOnPolicyAlgorithm(OnPolicyAlgorithm):
    """An SB3 OnPolicyAlgorithm whose policy carries a memory through each episode.

    Settings are attributes, as SB3's are, and may be changed between updates: `model.ent_coef = 0.001`.  Those that
    others are made of (learning_rate, n_steps, gamma, gae_lambda) are changed by `load`: `load(path, env, gamma=0.9)`.

    Where several processes of torch.distributed train together, each makes this model with environments of its own, as
    many in each, and calls `learn`.  `batch_size`, `total_timesteps` and all that is logged are of all processes;
    `num_envs`, `n_envs` and the rollout buffer are of one.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict.fromkeys(
        ("MemoryPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"), MemoryActorCriticPolicy
    )
    """SB3's names mean the same policy: its network follows from the observations; with CnnPolicy, of pictures."""
    policy: MemoryActorCriticPolicy  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's
    rollout_buffer: SequenceRolloutBuffer  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower than the parent's
    config_class: ClassVar[type[Any]] = OnPolicyConfig
    """The dataclass of its settings, an `OnPolicyConfig`."""
    SCHEDULED: ClassVar[tuple[str, ...]] = ("learning_rate",)
    """Settings that may be functions of the share of the training that remains, from 1 to 0."""

    anneal: bool
    normalize_advantage: bool
    normalize_reward: bool
    normalize_observations: bool
    advantage_floor: float
    normalize_value_loss: bool
    span_lr_scale: float

    def __init__(
        self,
        policy: str | type[MemoryActorCriticPolicy],
        env: Any,
        given: Mapping[str, Any],
        pressure: PressureConfig,
        policy_kwargs: dict[str, Any] | None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        check_arguments(type(self).__name__, kwargs)
        given, kwargs = plain_numbers(given), plain_numbers(kwargs)
        check_policy(policy, list(self.policy_aliases), MemoryActorCriticPolicy, policy_kwargs or {})
        config = pick(self.config_class, self.numbers(given))
        # SB3 hands `use_sde`, which must be False, to the policy itself.
        self._policy_kwargs = {name: value for name, value in (policy_kwargs or {}).items() if name != "use_sde"}
        asked = self._policy_kwargs.get("observations")
        kinds = asked
        if env is not None or _init_setup_model:  # a loaded model may have none
            env = as_vec_env(env, asked)
            check_action_space(env.action_space)
            kinds = asked or kinds_of(env)
            if policy == "CnnPolicy" and not asked and not self._policy_kwargs.get("features_extractor_class"):
                kinds = kinds_of_pictures(kinds, env.observation_space)
                env = transposed(env, kinds)
        if given["n_steps"] is None:
            given["n_steps"] = rollout_steps(None if env is None else env.num_envs * processes.count())
        self.pressure_config = pressure
        self.controller: Controller | None = None
        self.use_masking = True
        self.log_again: dict[str, float] = {}
        """Of a loaded model: what had been recorded and not written when it was saved."""
        self.stand_ins: dict[str, float] = {}
        """Of a loaded model: values in place of functions that its checkpoint could not hold."""
        self.stage, self.stage_began = 1, 0
        """Of a curriculum (`expirespan-train --stages`): the present stage, and the steps trained before it."""
        self._memory: Any = None
        if processes.rank():  # the first one tells
            kwargs |= {"verbose": 0, "tensorboard_log": None}
        self._ended: list[tuple[int, Any, Any]] = []
        """Of one of several processes: step, record and success of each episode that it has not told the others of."""
        self._value_unit = 1.0
        """What the value loss of the present update is divided by."""
        self._asked_batch_size = config.batch_size
        self.batch_size = 0
        super().__init__(
            policy,
            env,  # pyright: ignore[reportArgumentType]  # None for a loaded model
            **{name: given[name] for name in ("learning_rate", "n_steps", "gamma", "gae_lambda")},
            **{name: given[name] for name in ("ent_coef", "vf_coef", "max_grad_norm")},
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=SequenceRolloutBuffer,
            policy_kwargs={"span_lr_scale": config.span_lr_scale} | self._policy_kwargs | {"observations": kinds},
            _init_setup_model=False,
            **{name: value for name, value in kwargs.items() if name not in REFUSED},
        )
        for field in fields(config):
            if field.name != "batch_size" and field.name in given:
                setattr(self, field.name, given[field.name])
        if _init_setup_model:
            check_batch_size(config.batch_size, self.n_steps, self.n_envs * processes.count(), processes.count())
            self._setup_model()
            self.policy.core.check_settings(pressure)

    def _setup_model(self) -> None:
        self.batch_size = self._batch_size()
        super()._setup_model()
        self.controller = self.policy.core.controller(self.pressure_config)
        self.reward_scale = RewardScale(self.n_envs, self.gamma)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed torch, NumPy and the environments: each process as its environments are numbered among those of all."""
        super().set_random_seed(None if seed is None else (seed + processes.rank() * self.n_envs) % SEEDS)

    @property
    def config(self) -> Any:
        """The settings in force (`config_class`); those that follow a schedule have their default there."""
        return pick(self.config_class, self.numbers(self._settings()))

    @classmethod
    def numbers(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings without schedules, which are checked here: their first value must be at least 0."""
        scheduled = {name: value for name, value in settings.items() if name in cls.SCHEDULED and callable(value)}
        for name, value in scheduled.items():
            check_not_negative(name, value(1.0))
        return {name: value for name, value in settings.items() if name not in scheduled}

    def _settings(self) -> dict[str, Any]:
        """The settings as the constructor takes them."""
        changed = self.batch_size != self._batch_size()
        asked = {"batch_size": self.batch_size if changed else self._asked_batch_size}
        return {
            f.name: asked.get(f.name, plain_schedule(getattr(self, f.name, None))) for f in fields(self.config_class)
        } | asked

    def arguments(self) -> dict[str, Any]:
        """The arguments that would make this model again, the environment and the device apart."""
        default_policy = self.policy_aliases["MemoryPolicy"]
        return {
            "policy": "MemoryPolicy" if self.policy_class is default_policy else self.policy_class,
            **self._settings(),
            **asdict(self.pressure_config),
            # The network as a whole, so that later versions may have other defaults.
            "policy_kwargs": self._policy_kwargs
            | {"core": self.policy.core_config.name, "memory": self.policy.core_config}
            | {"time_aware_critic": self.policy.time_aware_critic},
            "seed": self.seed,
            "stats_window_size": self._stats_window_size,
            "tensorboard_log": None if self.tensorboard_log is None else str(self.tensorboard_log),
            "verbose": self.verbose,
        }

    def last_values(self, names: list[str]) -> dict[str, float]:
        """The present values of those of these settings that follow a schedule."""
        scheduled = [name for name in names if name in self.SCHEDULED]
        return {name: self._now(name) for name in scheduled}

    def _now(self, name: str) -> Any:
        """A setting at the present stage of the training.  Raises ValueError where a schedule makes it negative."""
        if (setting := getattr(self, name)) is None:
            return None
        value = FloatSchedule(setting)(self._current_progress_remaining)
        check_not_negative(name, value)
        return value

    def save(self, path: Target, exclude: Any = None, include: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # any binary stream
        """Write a checkpoint, which executes nothing when it is read.

        It holds the policy and everything that training needs to continue: one safetensors file, in a ZIP archive
        unless `path` ends in .safetensors.  `.zip` is added to a path without a suffix; `path` may also be a binary
        stream.  Functions and classes of others can't be in it and must be given to `load` again; `exclude` and
        `include` are SB3's and not supported.

        Raises ValueError where `exclude` or `include` is given, or a setting has been changed to one out of range.
        """
        if exclude is not None or include is not None:
            raise ValueError(f"Expect `exclude` and `include` to be None, actual: {exclude!r} and {include!r}")
        write_checkpoint(path, *describe(self))

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride]  # any binary stream
        cls: type[Algorithm],
        path: Target,
        env: Any = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Algorithm:
        """The model of a checkpoint.

        Args:
            path: The file, with or without its suffix, a run folder of expirespan-train, or a binary stream.
            env: An environment to go on training in, with any number of rows; evaluation needs none.
            device: Where the policy shall live.
            custom_objects: Arguments that replace stored ones; others are passed over, as in SB3.
            print_system_info: Print the versions in use, as SB3 does.
            force_reset: Begin new episodes on the next `learn`.  If False, and if the environment can restore its
                state, training goes on exactly where it stood, random numbers included.  (With `anneal`, the
                step size also depends on the total number of steps that `learn` is asked for.)
            kwargs: Arguments of the constructor that replace stored ones.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where it is not a checkpoint of this algorithm, its spaces are not those of `env`, or it needs
                an argument that it could not hold.
        """
        if print_system_info:
            get_system_info()
        tensors, document = read_checkpoint(path)
        stored = {*document["arguments"], *(name.split(".")[0] for name in document["missing"])}
        replaced = {name: value for name, value in (custom_objects or {}).items() if name in stored}
        given = {**replaced, **kwargs}
        arguments = read_arguments(document, given, cls, needed=env is not None)
        model = cls(env=env, device=device, _init_setup_model=False, **arguments)
        model.stand_ins = {
            name: document["last_values"][name]
            for name in document["missing"]
            if name in cls.SCHEDULED and name not in given
        }
        observation_space, action_space = stored_spaces(document)
        if model.env is not None:
            check_for_correct_spaces(model.env, observation_space, action_space)
        else:
            model.n_envs = document["n_envs"]
        # The stored one, with the order of keys that the network was trained with.
        model.observation_space, model.action_space = observation_space, action_space
        # There may be fewer environments than at first.
        size = model._asked_batch_size
        check_batch_size(size, model.n_steps, max(model.n_envs, (size or 0) // model.n_steps))
        if not {"policy", "policy_kwargs"} & given.keys():  # a network of the user's may need more than shapes
            check_policy_tensors(model, under("policy", tensors))
        model._setup_model()
        if "memory_budget" in kwargs:  # older checkpoints may have one that is refused now
            model.policy.core.check_settings(model.pressure_config)
        restore(model, tensors, document, continue_episodes=not force_reset)
        return model

    def set_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]  # any binary stream
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """Put weights and the optimizer's state into this model.

        They are those of a checkpoint, or a dictionary as `get_parameters` returns it.  The state of another class of
        optimizer, or of other networks (without `exact_match`), is passed over.
        """
        if isinstance(load_path_or_dict, dict):
            found = dict(load_path_or_dict)
            if "policy" in found:
                found["policy"] = named_as_in(self.policy, found["policy"])
            super().set_parameters(found, exact_match, device)
            return
        tensors, document = read_checkpoint(load_path_or_dict)
        stored = under("policy", tensors)
        load_policy_tensors(self.policy, stored, strict=exact_match)
        if stored.keys() == policy_tensors(self.policy).keys():
            load_optimizer(self, tensors, document)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Go on in another environment, of any kind that the constructor takes, with the same spaces.

        It may have another number of rows; then, or with `force_reset`, new episodes begin.
        """
        made = as_vec_env(env, uncompiled(self.policy).observations)
        check_for_correct_spaces(made, self.observation_space, self.action_space)
        self._vec_normalize_env = unwrap_vec_normalize(made)
        other = made.num_envs != self.n_envs
        self.env, self.n_envs = made, made.num_envs
        if force_reset or other:
            self._last_obs, self._memory = None, None
        if other:
            self.batch_size = self._batch_size()
            self.rollout_buffer.n_envs = self.n_envs
            scale = self.reward_scale.state_dict()
            self.reward_scale = RewardScale(self.n_envs, self.gamma)
            self.reward_scale.load_state_dict(scale)

    def restore_statistics(self, episodes: list[dict[str, Any]], successes: list[bool]) -> None:
        """Put back the recent episodes that the log and the budget go by."""
        self.ep_info_buffer = deque(episodes, maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(successes, maxlen=self._stats_window_size)

    def learn(  # pyright: ignore[reportIncompatibleMethodOverride]  # one argument more, as in MaskablePPO
        self: Algorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> Algorithm:
        """Train; the arguments are SB3's.

        `tb_log_name` is the name of the class where None.  Where the environment has `action_masks()`, as for
        sb3-contrib's MaskablePPO, only actions that it allows are taken, unless `use_masking` is False.

        Raises ValueError where the model was loaded without an environment.
        """
        if self.env is None:
            raise ValueError("Expect an environment to learn in, actual: none; give `env` to `load`, or call `set_env`")
        if self.stand_ins:
            warnings.warn(
                f"The checkpoint could not hold the functions given as {', '.join(self.stand_ins)}: training goes on "
                f"with their last values, {self.stand_ins}; give them to `load` to go on with the functions",
                stacklevel=2,
            )
        self._check_processes()
        processes.copy_first(uncompiled(self.policy))  # each drew weights from its own seed
        self.use_masking = use_masking
        if reset_num_timesteps:
            self.stage, self.stage_began = 1, 0
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def _check_processes(self) -> None:
        """Raise ValueError where the processes can't train together."""
        if len(rows := set(processes.gathered(self.n_envs))) > 1:
            raise ValueError(f"Expect as many environments in every process, actual: {sorted(rows)}")
        if processes.count() > 1 and self._vec_normalize_env is not None:
            said = (
                "as each process would have statistics of its own (normalize_observations, normalize_reward share them)"
            )
            raise ValueError(f"Expect no VecNormalize in several processes, {said}, actual: {self._vec_normalize_env}")

    def _update_info_buffer(self, infos: Any, dones: np.ndarray | None = None) -> None:
        # A list, or SubprocVecEnv's tuple.
        if processes.count() == 1:
            super()._update_info_buffer(infos, dones)
            return
        for info, done in zip(infos, [False] * len(infos) if dones is None else dones, strict=True):
            if "episode" in info or (done and "is_success" in info):
                self._ended.append((self.num_timesteps, info.get("episode"), info.get("is_success") if done else None))

    def share_episodes(self) -> None:
        """Tell all processes of the episodes that have ended in each during a rollout, as SB3 tells its buffers."""
        by_time = sorted((one for own in processes.gathered(self._ended) for one in own), key=lambda one: one[0])
        for _, episode, success in by_time:
            if episode is not None and self.ep_info_buffer is not None:
                self.ep_info_buffer.append(episode)
            if success is not None and self.ep_success_buffer is not None:
                self.ep_success_buffer.append(success)
        self._ended = []

    def pending_log(self) -> dict[str, float]:
        """What was recorded since the log was last written: numbers of the last update, by name."""
        if not hasattr(self, "_logger"):  # it has not trained yet, or not since it was loaded
            return self.log_again
        logger = self.logger
        shown = {k: v for k, v in logger.name_to_value.items() if "tensorboard" not in logger.name_to_excluded[k]}
        return {name: float(v) for name, v in shown.items() if isinstance(v, int | float) and isfinite(v)}

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        made = super()._setup_learn(*args, **kwargs)
        for name, value in self.log_again.items():
            self.logger.record(name, value)
        self.log_again = {}
        return made

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """Actions, and the memory to hand in with the next observation; see `MemoryActorCriticPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _batch_size(self) -> int:
        everywhere = self.n_envs * processes.count()
        return minibatch_steps(self._asked_batch_size, self.n_steps, everywhere, processes.count())

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # What remained of the stage as the rollout began: its end may lie past the total, or be all that is asked for.
        before = self.stage_began + self.n_steps * self.n_envs * processes.count()
        super()._update_current_progress_remaining(num_timesteps - before, total_timesteps - self.stage_began)

    def _update_learning_rate(self, optimizers: Any) -> None:
        remaining = self._current_progress_remaining
        rate = self.lr_schedule(remaining)
        check_not_negative("learning_rate", rate)
        # A constant schedule, as RL Zoo makes of every number, is a number.
        if self.anneal and not callable(plain_schedule(self.learning_rate)):
            rate *= remaining
        self.logger.record("train/learning_rate", rate)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def _evaluate(self, batch: SequenceBatch, first: bool) -> SequenceEvaluation:
        """What the present weights make of a minibatch; in the first pass also what the memory made of it."""
        record = Record.LOSSES if self.controller is None else self.controller.needs
        if first:
            record |= ALL
        now = self.policy.evaluate_sequences(
            batch.observations,
            batch.actions,
            batch.state,
            batch.episode_starts,
            action_masks=batch.action_masks,
            record=record,
        )
        if self.controller is not None:
            self.controller.observe(now.core)
        return now

    def _loss(self, policy_loss: Tensor, value_loss: Tensor, now: SequenceEvaluation) -> Tensor:
        """The weighted sum of all terms; those of the core are means over steps."""
        loss = policy_loss + self.vf_coef * value_loss / self._value_unit - self.ent_coef * now.entropy.mean()
        weights = self.policy.core.loss_weights
        for name, value in now.core.losses.items():
            if weight := weights.get(name, 1.0):
                loss = loss + weight * value / now.values.numel()
        return loss

    def _step(self, loss: Tensor, share: float) -> None:
        """One step of the optimizer, and this share of what the core's controller does in an update.

        Raises TrainingDiverged, and changes no weight, where the gradients are not finite.
        """
        self.policy.optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(self.policy.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        if not norm.isfinite():
            raise TrainingDiverged(
                f"Expect finite gradients, actual: a length of {norm.item()} after {self.num_timesteps} steps, and in "
                f"this rollout {self.rollout_buffer.largest()}"
            )
        self.policy.optimizer.step()
        if self.controller is not None:
            self.controller.step(share)

    def _begin_update(self) -> TrainingLog:
        """Make ready to learn from the rollout just collected; where to log what comes of it.

        Raises ValueError or TypeError where a setting has been changed to one that the constructor refuses.
        """
        pick(self.config_class, self.numbers(self._settings()))
        buffer = self.rollout_buffer
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        if self.normalize_advantage:
            buffer.advantages = normalized_advantages(buffer.advantages, self.advantage_floor)
        self._value_unit = deviation(buffer.returns, self.advantage_floor) if self.normalize_value_loss else 1.0
        return TrainingLog()

    def _finish_update(self, log: TrainingLog) -> None:
        """Log an update, and let the pressure on the spans follow what came of it."""
        buffer = self.rollout_buffer
        log.add(explained_variance=explained_variance(buffer.values, buffer.returns))
        log.add(reward_scale=self.reward_scale.scale if self.scales_rewards else 1.0)
        if hasattr(self.policy, "log_std"):
            log.add(std=self.policy.log_std.exp().mean().item())
        progress = 1 - self._current_progress_remaining
        log.record(self.logger, self.controller.end_update(progress) if self.controller is not None else {})
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        # Only now: the rollout was collected, and has been learned from, with the statistics of those before it.
        normalized = self._vec_normalize_env is not None and self._vec_normalize_env.norm_obs
        if self.normalize_observations and not normalized:
            self.policy.observe(buffer.flat_observations())

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # Done already (`as_vec_env`): SB3 would take MiniGrid's codes for pixels.
        return env

    @property
    def scales_rewards(self) -> bool:
        """Whether rewards are divided by `reward_scale`; not where SB3's VecNormalize does the same."""
        normalized = self._vec_normalize_env is not None and self._vec_normalize_env.norm_reward
        return self.normalize_reward and not normalized

    def collect_rollouts(  # pyright: ignore[reportIncompatibleMethodOverride]  # a buffer of sequences
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SequenceRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Act for `n_rollout_steps` in every environment; False if a callback stopped it.  See `collecting.collect`."""
        return collect(self, env, callback, rollout_buffer, n_rollout_steps)
