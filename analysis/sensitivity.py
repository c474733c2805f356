"""Which past steps matter to a decision: gradients of values and of chosen actions to what was observed before.

The episode is read as one segment from an empty memory, in which nothing is detached and deletion changes nothing
(tests/test_core_laws.py), so the gradients are those of the agent as it acts.  Nothing but the core's contract is used:
any core can be asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..agents.actions import drawn_actions, read_masks
from ..agents.policy import MemoryActorCriticPolicy
from ..memory import MemoryCore, Record
from .numbers import rank_correlation


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the decisions at some steps depend on; row s belongs to `steps[s]`, column i to what was observed at step i.

    Entries are lengths of gradients with respect to the features of an observation; 0 for what came later.
    """

    steps: np.ndarray
    value: np.ndarray
    """Of the value, [S, T]."""
    action: np.ndarray
    """Of the log-probability of the action taken, [S, T]."""


def input_sensitivity(
    core: MemoryCore[Any],
    x: Float[Tensor, "T D"],
    read: Callable[[Tensor], Sequence[Tensor]],
    steps: Sequence[int],
) -> np.ndarray:
    """Lengths of the gradients of quantities at some steps with respect to the inputs of all steps.

    Args:
        core: Any memory core, in evaluation mode.
        x: Its inputs over one whole episode.
        read: Makes of the core's outputs [T, D] one or more quantities [T].
        steps: At which steps the quantities are taken.

    Returns:
        [quantities, steps, T].
    """
    _check_steps(steps, len(x))
    inputs = x.detach().clone().requires_grad_()
    resets = torch.zeros(1, len(x), dtype=torch.bool, device=x.device)
    resets[:, 0] = True
    with torch.enable_grad():
        y = core(inputs.unsqueeze(0), core.initial_state(1), resets, record=Record.NOTHING).y
        quantities = read(y.squeeze(0))
    lengths = [
        [torch.autograd.grad(quantity[step], inputs, retain_graph=True)[0].norm(dim=1) for step in steps]
        for quantity in quantities
    ]
    return torch.stack([torch.stack(row) for row in lengths]).cpu().numpy()


def policy_sensitivity(
    policy: MemoryActorCriticPolicy,
    observations: Sequence[Any],
    actions: Sequence[Any] | np.ndarray,
    steps: Sequence[int] | None = None,
    action_masks: Sequence[Any] | None = None,
) -> Sensitivity:
    """What the values and the actions of one episode depend on.

    Args:
        policy: The agent.
        observations: All observations of the episode before its actions, in order.
        actions: The action taken at each.
        steps: The steps asked about; all where None, which takes one backward pass for each.
        action_masks: Which actions were allowed at each step (`actions.mask_width`); all where None.

    Raises:
        ValueError: Where there isn't an action for each observation, or a step lies outside the episode.
    """
    if len(observations) != len(actions) or not len(actions):
        raise ValueError(
            f"Expect as many `observations` as `actions`, at least 1, actual: {len(observations)} and {len(actions)}"
        )
    asked = range(len(actions)) if steps is None else steps
    _check_steps(asked, len(actions))
    policy.set_training_mode(False)
    taken = torch.as_tensor(drawn_actions(policy.action_space, np.asarray(actions)), device=policy.device)
    with torch.no_grad():
        features = policy.features(policy.obs_to_tensor(_stacked(observations))[0])
    masks = None
    if action_masks is not None:
        allowed = read_masks(policy.action_space, list(action_masks), len(actions))
        masks = torch.as_tensor(allowed, device=policy.device)
    value, action = input_sensitivity(policy.core, features, lambda y: policy.assess(y, taken, masks), asked)
    return Sensitivity(steps=np.array(asked), value=value, action=action)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far what a decision depends on is what a layer chose to keep, over the steps before the decision."""

    rank_correlation: float
    """Spearman's correlation of sensitivities and spans."""
    share_live: float
    """Share of the whole sensitivity that falls on steps whose memory is live; NaN where it is 0 throughout."""


def span_agreement(sensitivity: np.ndarray, span: np.ndarray, deleted: np.ndarray, step: int) -> Agreement:
    """Agreement of the sensitivity of one step, [T], with the spans and deletions of a layer, [T] each."""
    if not sensitivity.shape == span.shape == deleted.shape:
        shapes = f"{sensitivity.shape}, {span.shape} and {deleted.shape}"
        raise ValueError(f"Expect `sensitivity`, `span` and `deleted` to have one shape, actual: {shapes}")
    _check_steps([step], len(span))
    before, live = sensitivity[:step].astype(np.float64), deleted[:step] > step
    total = before.sum()
    return Agreement(
        rank_correlation=rank_correlation(before, span[:step]),
        share_live=float(before[live].sum() / total) if total > 0 else float("nan"),
    )


def _check_steps(steps: Sequence[int], length: int) -> None:
    if not len(steps) or not all(0 <= step < length for step in steps):
        raise ValueError(f"Expect `steps` to be one or more from 0 to {length - 1}, actual: {list(steps)}")


def _stacked(observations: Sequence[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {name: np.stack([observation[name] for observation in observations]) for name in observations[0]}
    return np.stack(observations)
