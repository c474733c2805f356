"""Everything that can be asked of an agent's memory, gathered for one report.

What it kept, what its decisions depend on, and what becomes of them once the memory is changed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from ..agents.policy import MemoryActorCriticPolicy
from ..checks import check_whole
from .evaluation import MAX_STEPS, evaluate_policy, record_episode
from .interventions import STANDARD, action_changes, check_editable
from .numbers import event_labels
from .record import EpisodeTrace
from .report import FOREMOST, MemoryNumbers, comparison_lines, memory_numbers, report_lines
from .sensitivity import policy_sensitivity, span_agreement

RECORDED = 10
"""Episodes recorded one by one for the numbers."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What an intervention does to an agent; changes of actions are NaN for actions that are not discrete."""

    mean_return: float
    success: float
    variation: float
    """Largest total variation between the action distributions with and without it in an episode, on average."""
    divergence: float
    """Largest Kullback-Leibler divergence of an episode in nats, on average."""
    switched: float
    """Share of the episodes in which the likeliest action becomes another one somewhere."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the last decisions of episodes depend on, means over the recorded ones."""

    relevant: float
    """Share of the sensitivity of the action taken that falls on relevant steps before it."""
    live: list[float]
    """Share that falls on steps whose memory a layer still holds, for each layer."""
    foremost: list[tuple[int, str, float]]
    """Of the first episode: the steps that mattered most, what they were, and their shares."""
    correlation: list[float]
    """Rank correlation of sensitivities with spans, for each layer."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The report on one agent's memory."""

    kept: MemoryNumbers
    decision: Decision
    effects: dict[str, Effect]
    """By intervention; the first is none at all."""


def inspect_memory(
    policy: MemoryActorCriticPolicy,
    single: Callable[[], gym.Env],
    batched: Callable[[int], VectorEnv],
    episodes: int,
    seed: int,
    deterministic: bool = True,
    budget: int | None = None,
    max_steps: int = MAX_STEPS,
) -> Inspection:
    """Play an agent's episodes and take everything together.

    Args:
        policy: The agent.
        single: Makes one environment, batched a number of them side by side.
        batched: See above; at most 64 are asked for.
        episodes: How many are played under each intervention; at least 2, for one to be swapped with another.
        seed: Of the first one.
        deterministic: Take the likeliest actions.
        budget: As for `memory_numbers`.
        max_steps: Episodes are cut off after so many, as in `evaluate_policy`.

    Raises ValueError where the memories of the policy's core can't be edited one by one.
    """
    check_whole("episodes", episodes, at_least=2)
    check_editable(policy)
    env = _Observed(single())
    traces, decisions = [], []
    for number in range(min(RECORDED, episodes)):
        trace = record_episode(policy, env, seed + number, deterministic, attention=True, max_steps=max_steps)
        traces.append(trace)
        decisions.append(_last_decision(policy, env, trace))
    env.close()
    return Inspection(
        kept=memory_numbers(traces, budget),
        decision=_mean_decision(decisions),
        effects=_effects(policy, batched, episodes, seed, deterministic, max_steps),
    )


def inspection_lines(found: Inspection) -> Iterator[str]:
    """The report as lines to read."""
    yield from report_lines(found.kept)
    decision = found.decision
    yield "last action depends on"
    yield f"  {'relevant steps':35}{_percent(decision.relevant):>10}  of its sensitivity to what was seen before"
    yield f"  {'steps still in memory':35}" + "".join(f"{_percent(share):>10}" for share in decision.live)
    yield f"  {'rank correlation with spans':35}" + "".join(f"{_number(value):>10}" for value in decision.correlation)
    said = ", ".join(f"step {step} ({label}) {share:.0%}" for step, label, share in decision.foremost)
    yield f"  mostly (first episode): {said or 'nothing'}"
    yield f"{'memory changed':37}   success    return   actions: total variation   KL   switched"
    for name, effect in found.effects.items():
        yield f"  {name:35}{_effect(effect)}"


def side_by_side(first: Inspection, second: Inspection, names: tuple[str, str]) -> Iterator[str]:
    """Two reports as lines to read."""
    yield from comparison_lines(first.kept, second.kept, names)
    yield f"{'success with the memory changed':37}"
    for name in first.effects:
        yield f"  {name:35}" + " |".join(f"{run.effects[name].success:20.1%}" for run in (first, second))


def as_json(found: Inspection) -> dict[str, Any]:
    """The report as JSON knows it: no NaN and no infinity."""
    return finite(found)


class _Observed(gym.Wrapper):
    """Keeps what an environment showed since its last reset, and which actions it allowed at each step."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observations: list[Any] = []
        self.masks: list[Any] = []

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.observations, self.masks = [observation], []
        return observation, info

    def step(self, action: Any) -> Any:
        if self.env.has_wrapper_attr("action_masks"):
            self.masks.append(self.env.get_wrapper_attr("action_masks")())
        result = self.env.step(action)
        self.observations.append(result[0])
        return result


def _last_decision(policy: MemoryActorCriticPolicy, seen: _Observed, trace: EpisodeTrace) -> Decision:
    last = len(trace.actions) - 1
    found = policy_sensitivity(policy, seen.observations[:-1], trace.actions, [last], seen.masks or None)
    sensitivity = found.action[0]
    before, labels = sensitivity[:last], event_labels(trace)
    shares = before / before.sum() if before.sum() > 0 else before
    strongest = np.argsort(-shares, kind="stable")[:FOREMOST].tolist()
    agreements = [span_agreement(sensitivity, layer.span, layer.deleted, last) for layer in trace.layers]
    return Decision(
        relevant=float(shares[trace.relevant[:last]].sum()) if shares.any() else float("nan"),
        foremost=[(step, str(labels[step]), float(shares[step])) for step in strongest if shares[step] > 0],
        live=[agreement.share_live for agreement in agreements],
        correlation=[agreement.rank_correlation for agreement in agreements],
    )


def _mean_decision(decisions: list[Decision]) -> Decision:
    return Decision(
        relevant=_mean([decision.relevant for decision in decisions]),
        foremost=decisions[0].foremost,
        live=[_mean(list(layer)) for layer in zip(*(d.live for d in decisions), strict=True)],
        correlation=[_mean(list(layer)) for layer in zip(*(d.correlation for d in decisions), strict=True)],
    )


def _effects(
    policy: MemoryActorCriticPolicy,
    batched: Callable[[int], VectorEnv],
    episodes: int,
    seed: int,
    deterministic: bool,
    max_steps: int,
) -> dict[str, Effect]:
    rows = min(64, episodes)
    tried = {name: make() for name, make in STANDARD.items()}
    env = batched(rows)
    discrete = isinstance(policy.action_space, spaces.Discrete)
    changes = action_changes(policy, env, seed, tried, deterministic, max_steps) if discrete else {}
    env.close()
    effects = {}
    for name, make in {"as it is": None, **STANDARD}.items():
        env = batched(rows)
        change = None if make is None else make()
        played = evaluate_policy(policy, env, episodes, seed, deterministic, intervene=change, max_steps=max_steps)
        env.close()
        moved = changes.get(name)
        unknown = 0.0 if make is None else float("nan")
        effects[name] = Effect(
            mean_return=float(played.returns.mean()),
            success=float(played.successes.mean()),
            variation=unknown if moved is None else float(np.nanmax(moved.total_variation, 0).mean()),
            divergence=unknown if moved is None else float(np.nanmax(moved.divergence, 0).mean()),
            switched=unknown if moved is None else float(np.nanmax(moved.switched, 0).mean()),
        )
    return effects


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def finite(value: Any) -> Any:
    """What dataclasses and their parts hold, as JSON knows it: None in place of NaN and infinity."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _effect(effect: Effect) -> str:
    actions = f"{_number(effect.variation):>26} {_number(effect.divergence):>6} {_percent(effect.switched):>9}"
    return f"{effect.success:>10.1%}{effect.mean_return:>10.3f}{actions}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
