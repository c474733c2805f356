"""Playing episodes to measure an agent: what it earns, what it keeps, and whether it keeps the right things."""

import numbers
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TimeLimit

from ..agents.action_names import action_names
from ..agents.actions import environment_actions, environment_masks, read_masks
from ..agents.gymnasium_vec_env import GymnasiumVecEnv
from ..agents.policy import MemoryActorCriticPolicy
from ..checks import check_whole
from ..sequences.model import SequenceModel
from .frames import AgentView
from .interventions import Intervention
from .numbers import retention_score
from .record import EpisodeRecorder, EpisodeTrace

MAX_STEPS = 100_000
"""Steps after which an episode is cut off, where nothing else is asked for: not every environment ends its own."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What some episodes gave; arrays over episodes are [N], over all their steps [steps], over layers [layers]."""

    returns: np.ndarray
    successes: np.ndarray
    """As the environment says at the end of an episode, so never of one that was cut off; where it says nothing at all,
    a return above 0."""
    steps: np.ndarray
    """Steps of each episode."""
    cut_off: int
    """How many of the episodes were left before their end because they took `max_steps`."""
    outcomes: dict[str, np.ndarray]
    """The numbers that the environment tells at the end of each episode, by name: a corridor's `length`, say."""
    live: np.ndarray
    """Live memories at each step of each layer, [steps, layers]."""
    everything: np.ndarray
    """Memories that keeping everything would hold at each step, [steps]."""
    evictions: np.ndarray
    """Memories pushed out by the capacity, [layers]."""
    retention: np.ndarray
    """Retention score of each layer; NaN where the environment does not say what is relevant."""
    steps_per_second: float


def evaluate_policy(
    policy: MemoryActorCriticPolicy,
    env: VectorEnv,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    on_episode: Callable[[], object] = lambda: None,
    intervene: Intervention | None = None,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Play `episodes` episodes, shared out evenly among the rows so that short ones are not favoured.

    Row i is seeded with `seed + i`.  `on_episode` is called at the end of each.  `intervene` may change
    what is stored after each step (interventions.py).  Actions are masked where the environments have `action_masks()`.

    An episode that takes `max_steps` is cut off and is the last of its row, as a VectorEnv can't begin another one
    there.  Fewer episodes than asked for are played then; by Wald's identity means over those of all rows stay right.
    """
    check_whole("episodes", episodes, at_least=1)
    check_whole("max_steps", max_steps, at_least=1)
    rows = GymnasiumVecEnv(env)
    rows.seed(seed)
    observations, infos = rows.reset(), rows.reset_infos
    count, quota = rows.num_envs, np.array([(episodes + row) // rows.num_envs for row in range(rows.num_envs)])[::-1]
    policy.set_training_mode(False)
    state, starts = policy.initial_state(count), np.ones(count, dtype=bool)
    returns, times, played = np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    endings: list[dict[str, Any]] = []
    kept: list[tuple[np.ndarray, ...]] = []
    evictions, cut_off = np.asarray(0), 0
    begun, masked = time.perf_counter(), rows.has_attr("action_masks")
    while (counted := played < quota).any():
        with torch.no_grad():
            tensor = policy.obs_to_tensor(observations)[0]
            first = torch.as_tensor(starts, device=policy.device)
            masks = environment_masks(rows, policy) if masked else None
            action = policy.act(tensor, state, first, deterministic, trace=True, action_masks=masks)
        state, trace = action.state, action.trace or ()
        span, live, evicted = (
            np.array([getattr(layer, name)[:, 0].cpu().numpy() for layer in trace])
            .reshape(len(trace), count)
            .T[counted]
            for name in ("span", "live", "evicted")
        )
        marked = np.array([bool(info.get("relevant", False)) for info in infos])
        if intervene is not None:
            state = intervene(state, torch.as_tensor(marked, device=policy.device))
        kept.append((span, live, marked[counted], times[counted] + 1))
        evictions = evictions + (evicted >= 0).sum(0)
        observations, rewards, starts, infos = rows.step(environment_actions(policy, action.actions))
        assert not isinstance(observations, tuple)  # SB3 has no policies for these
        returns, times = returns + rewards, times + 1
        too_long = counted & ~starts & (times >= max_steps)
        for row in np.flatnonzero(counted & (starts | too_long)).tolist():
            endings.append({"return": returns[row], "steps": times[row], "info": infos[row]})
            on_episode()
        for row in np.flatnonzero(starts).tolist():
            infos[row] = rows.reset_infos[row]
        played[starts] += 1
        played[too_long], cut_off = quota[too_long], cut_off + int(too_long.sum())
        returns[starts], times[starts] = 0, 0
    return _summary(endings, kept, evictions, cut_off, time.perf_counter() - begun)


def _summary(
    endings: Sequence[dict[str, Any]],
    kept: Sequence[tuple[np.ndarray, ...]],
    evictions: np.ndarray,
    cut_off: int,
    seconds: float,
) -> Evaluation:
    """The episodes by how each ended, and by what each step kept."""
    spans, live, relevant, everything = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    told = any("is_success" in ending["info"] for ending in endings)
    successes = [ending["info"].get("is_success", not told and ending["return"] > 0) for ending in endings]
    return Evaluation(
        returns=np.array([ending["return"] for ending in endings]),
        successes=np.array(successes, dtype=bool),
        steps=np.array([ending["steps"] for ending in endings]),
        cut_off=cut_off,
        outcomes=_numbers([ending["info"] for ending in endings]),
        live=live,
        everything=everything,
        evictions=evictions,
        retention=np.array([retention_score(spans[:, layer], relevant) for layer in range(spans.shape[1])]),
        steps_per_second=len(everything) / seconds,
    )


def _numbers(infos: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers that every one of these infos holds."""
    numbered = [k for k, v in infos[0].items() if isinstance(v, numbers.Real) and not isinstance(v, bool)]
    return {name: np.array([info.get(name, np.nan) for info in infos]) for name in numbered}


def record_episode(
    policy: MemoryActorCriticPolicy,
    env: gym.Env,
    seed: int,
    deterministic: bool = True,
    on_step: Callable[[], object] = lambda: None,
    *,
    attention: bool = False,
    frames: bool = False,
    max_steps: int = MAX_STEPS,
) -> EpisodeTrace:
    """Play one episode and record its memory; `on_step` is called before each action, to take pictures, say.

    `attention` also records what each step attended to, and `frames` what the agent saw, where the environment can
    show it (frames.py).  The episode is truncated after `max_steps`.

    The environment and torch's generator begin from `seed`, so that sampled actions are drawn alike too; afterwards
    the generator stands where it stood.

    Raises ValueError where the policy's core keeps no memories of single steps.
    """
    check_whole("max_steps", max_steps, at_least=1)
    check_keeps_memories(policy, "to record an episode")
    with drawn_from(seed, policy.device):
        return _recorded(policy, TimeLimit(env, max_steps), seed, deterministic, on_step, attention, frames)


def check_keeps_memories(policy: MemoryActorCriticPolicy | SequenceModel, purpose: str) -> None:
    """Raise ValueError where the core of a policy or model keeps no memories of single steps, which `purpose` needs."""
    if not policy.core.keeps_memories:
        raise ValueError(
            f"Expect a core that keeps memories of single steps, such as expire-span, {purpose}, "
            f"actual: {policy.core_config.name}"
        )


@contextmanager
def drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and this device for a while."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _recorded(
    policy: MemoryActorCriticPolicy,
    env: gym.Env,
    seed: int,
    deterministic: bool,
    on_step: Callable[[], object],
    attention: bool,
    frames: bool,
) -> EpisodeTrace:
    policy.set_training_mode(False)
    observation, info = env.reset(seed=seed)
    state, recorder, over = policy.initial_state(1), EpisodeRecorder(action_names=action_names(env)), False
    start = torch.ones(1, dtype=torch.bool, device=policy.device)
    terminated, view, masked = False, AgentView(env), env.has_wrapper_attr("action_masks")
    while not over:
        on_step()
        with torch.no_grad():
            tensor = policy.obs_to_tensor(observation)[0]
            masks = None
            if masked:
                allowed = read_masks(policy.action_space, env.get_wrapper_attr("action_masks")(), 1)
                masks = torch.as_tensor(allowed, device=policy.device)
            action = policy.act(
                tensor, state, start, deterministic, trace=True, attention=attention, action_masks=masks
            )
        chosen = environment_actions(policy, action.actions)[0]
        relevant, event = bool(info.get("relevant", False)), str(info.get("event") or "")
        frame = view(observation) if frames else None
        observation, reward, terminated, truncated, info = env.step(chosen)
        recorder.add(
            action.trace or (), relevant, chosen, float(reward), value=action.values.item(), event=event, frame=frame
        )
        state, start, over = action.state, torch.zeros_like(start), terminated or truncated
    return recorder.finish("terminated" if terminated else "truncated")
