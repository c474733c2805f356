"""Changing what is stored and watching what becomes of it: proof that a memory is used, not only kept.

An intervention gets the memory after each step and returns the memory to go on with.  `evaluate_policy` plays whole
episodes under one (what it costs), `action_changes` follows the path taken without it (what it changes).
"""

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from ..agents.actions import environment_actions, environment_masks
from ..agents.gymnasium_vec_env import GymnasiumVecEnv
from ..agents.policy import MemoryActorCriticPolicy
from ..memory import Cuttable, Editable, ExpireSpanState, LayerMemory
from ..sequences.model import SequenceModel

Intervention = Callable[[ExpireSpanState, Tensor], ExpireSpanState]
"""(the state of B rows after a step, bool [B] whether the environment called that step relevant) -> another state."""


Model = TypeVar("Model", MemoryActorCriticPolicy, SequenceModel)


def cut_spans(policy: Model, longest: float) -> Model:
    """A copy of a policy or sequence model whose spans are clamped to `longest` steps; itself it stays as it is."""
    if not isinstance(policy.core, Cuttable):
        raise ValueError(
            f"Expect a core whose spans can be cut, such as expire-span, actual: {policy.core_config.name}"
        )
    copied = deepcopy(policy)
    copied.core = policy.core.cut(longest)
    return copied


def check_editable(policy: MemoryActorCriticPolicy | SequenceModel) -> None:
    """Raise ValueError where the memories of a policy's or model's core can't be taken out or replaced one by one."""
    if not isinstance(policy.core.initial_state(1), Editable):
        raise ValueError(
            "Expect a core whose memories can be edited one by one, such as expire-span, "
            f"actual: {policy.core_config.name}"
        )


def forget_steps(steps: Collection[int], layers: Collection[int] | None = None) -> Intervention:
    """Delete what was written at these steps of the episode, before a later step can see it.

    `layers` (from 0) names the layers concerned, None all of them.
    """
    if any(step < 0 for step in steps):
        raise ValueError(f"Expect `steps` to be at least 0, actual: {sorted(steps)}")

    def intervene(state: ExpireSpanState, relevant: Tensor) -> ExpireSpanState:
        chosen = torch.tensor(sorted(steps), dtype=torch.int64, device=relevant.device)
        return state.forget(lambda birth: torch.isin(birth, chosen), layers)

    return intervene


def forget_relevant(relevant_ones: bool = True) -> Intervention:
    """Delete the memory of every relevant step before a later step can see it; or else of all others."""

    def intervene(state: ExpireSpanState, relevant: Tensor) -> ExpireSpanState:
        newest = (state.time - 1).unsqueeze(1)
        concerned = (relevant if relevant_ones else ~relevant).unsqueeze(1)
        return state.forget(lambda birth: (birth == newest) & concerned)

    return intervene


class ForgetOthers:
    """For every relevant step of an episode, delete the memory of the next irrelevant one: as many, but not these.

    The comparison for `forget_relevant`.  One object serves one evaluation.
    """

    def __init__(self) -> None:
        self._due: Tensor | None = None

    def __call__(self, state: ExpireSpanState, relevant: Tensor) -> ExpireSpanState:
        """The state without what is due."""
        due = torch.zeros_like(state.time) if self._due is None else self._due
        due = torch.where(state.time == 1, 0, due) + relevant.long()
        newest, now = (state.time - 1).unsqueeze(1), ~relevant & (due > 0)
        self._due = due - now.long()
        return state.forget(lambda birth: (birth == newest) & now.unsqueeze(1))


class SwapRelevant:
    """Every relevant step stores what the row before it stored at its own latest relevant step, in this episode or not.

    Nothing is swapped before that row has had one.  An agent that reads its memories then acts on another episode's.
    One object serves one evaluation.
    """

    def __init__(self) -> None:
        self._latest: tuple[LayerMemory, ...] | None = None

    def __call__(self, state: ExpireSpanState, relevant: Tensor) -> ExpireSpanState:
        """The state with the memories of relevant steps swapped."""
        newest = state.time - 1
        own = state.read(newest)
        if self._latest is None:
            self._latest = tuple(replace(memory, live=torch.zeros_like(memory.live)) for memory in own)
        self._latest = tuple(_where(relevant, new, old) for new, old in zip(own, self._latest, strict=True))
        if not relevant.any():
            return state
        if self._latest[0].birth.shape[0] == 1:
            raise ValueError("Expect `state` to have at least 2 rows to swap between, actual: 1")
        donors = tuple(memory.map(lambda tensor: tensor.roll(1, 0)) for memory in self._latest)
        return state.write(newest, donors, relevant)


def _where(rows: Tensor, new: LayerMemory, old: LayerMemory) -> LayerMemory:
    """The new one slot in these rows, the old one in the others."""

    def taken(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *(1,) * (a.dim() - 1)), a, b)

    return LayerMemory(
        hidden=taken(new.hidden, old.hidden),
        key_value=taken(new.key_value, old.key_value),
        span=taken(new.span, old.span),
        birth=taken(new.birth, old.birth),
        live=taken(new.live, old.live),
    )


STANDARD: Mapping[str, Callable[[], Intervention]] = {
    "relevant steps forgotten": forget_relevant,
    "as many others forgotten": ForgetOthers,
    "all other steps forgotten": lambda: forget_relevant(relevant_ones=False),
    "relevant steps swapped": SwapRelevant,
}
"""What the memory report tries."""


@dataclass(frozen=True, kw_only=True)
class ActionChange:
    """How far an intervention moves the action distribution, on the path taken without it; arrays are [T, episodes].

    NaN after the end of an episode.
    """

    total_variation: np.ndarray
    """Half the sum of the differences of probability, in [0, 1]."""
    divergence: np.ndarray
    """Kullback-Leibler divergence in nats of the changed distribution from the one without."""
    switched: np.ndarray
    """1 where the likeliest action is another one."""


def action_changes(
    policy: MemoryActorCriticPolicy,
    env: VectorEnv,
    seed: int,
    interventions: Mapping[str, Intervention],
    deterministic: bool = True,
    max_steps: int = 100_000,
) -> dict[str, ActionChange]:
    """One episode in each row of `env`, row i seeded with `seed + i`, played as if nothing happened.

    At each step the agent is also asked what it would do with each of the changed memories.  Episodes are followed for
    `max_steps` at most.

    Raises:
        ValueError: Where the actions are not discrete.
    """
    if not isinstance(policy.action_space, spaces.Discrete):
        raise ValueError(f"Expect `policy` to have a Discrete action space, actual: {policy.action_space}")
    rows = GymnasiumVecEnv(env)
    rows.seed(seed)
    observations, infos = rows.reset(), rows.reset_infos
    policy.set_training_mode(False)
    starts, over = np.ones(rows.num_envs, dtype=bool), np.zeros(rows.num_envs, dtype=bool)
    state = policy.initial_state(rows.num_envs)
    changed = dict.fromkeys(interventions, state)
    found: dict[str, list[np.ndarray]] = {name: [] for name in interventions}
    masked = rows.has_attr("action_masks")
    for _ in range(max_steps):
        masks = environment_masks(rows, policy) if masked else None
        with torch.no_grad():
            tensor, first = policy.obs_to_tensor(observations)[0], torch.as_tensor(starts, device=policy.device)
            relevant = torch.tensor([bool(info.get("relevant", False)) for info in infos], device=policy.device)
            plain, state = policy.action_logits(tensor, state, first, masks)
            for name, intervene in interventions.items():
                logits, after = policy.action_logits(tensor, changed[name], first, masks)
                found[name].append(np.where(over, np.nan, _differences(plain, logits)))
                changed[name] = intervene(after, relevant)
            actions = plain.argmax(1) if deterministic else torch.distributions.Categorical(logits=plain).sample()
        observations, _, starts, infos = rows.step(environment_actions(policy, actions))
        assert not isinstance(observations, tuple)  # SB3 has no policies for these
        for row in np.flatnonzero(starts).tolist():
            infos[row] = rows.reset_infos[row]
        over |= starts
        if over.all():
            break
    stacked = {name: np.stack(steps, 1) for name, steps in found.items()}
    return {n: ActionChange(total_variation=v[0], divergence=v[1], switched=v[2]) for n, v in stacked.items()}


def _differences(plain: Tensor, changed: Tensor) -> np.ndarray:
    """Total variation, divergence and whether the likeliest action differs, [3, B], of log-probabilities [B, A]."""
    p, q = plain.exp(), changed.exp()
    variation = (p - q).abs().sum(1) / 2
    divergence = (q * (changed - plain)).sum(1)
    return torch.stack([variation, divergence, (plain.argmax(1) != changed.argmax(1)).float()]).cpu().numpy()
