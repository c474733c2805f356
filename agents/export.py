"""The acting step as a program without Python: `torch.export` and ONNX.

The step is the policy's own, with its memories in a fixed number of slots (memory/expire_span/fixed_slots.py), so that
no shape but the number of rows changes:

    outputs, state = step(observation, state, episode_start)

- `observation`: a batch as `policy.obs_to_tensor` makes it, a tensor or a dictionary of tensors;
- `state`: a dictionary of tensors; all zero for rows that have seen nothing;
- `episode_start` bool [B]: rows whose memory is emptied first;
- `outputs["actions"]`: the likeliest, as the environment takes them: within bounds, counted from `start`;
- `outputs["logits"]`, or `mean` and `std` of continuous actions, [B, ...]: what to sample from, or to mask.  The
  log-probabilities of Discrete actions; those of all parts of MultiDiscrete side by side; MultiBinary's log-odds;
- `outputs["values"]` [B];
- `outputs["overflow"]` bool [B]: rows that had more memories than slots at this step.  The memory that would have
  expired first is lost to them, so what they return from here on may differ from the model's.

The weights are copied at the time of the export.  Programs run on the CPU.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import Tensor, nn

from ..checks import check_whole
from ..memory import ExpireSpan, Record
from ..memory.expire_span.fixed_slots import as_state, as_tensors, enough_slots, fixed_slots
from .policy import LeanCategorical, MemoryActorCriticPolicy

Batch = dict[str, Tensor]


def export_policy(
    policy: MemoryActorCriticPolicy, *, slots: int | None = None, batch_size: int | None = None
) -> torch.export.ExportedProgram:
    """The deterministic acting step of a policy as a program, which `torch.export.save` writes to a file.

    Args:
        policy: With the weights to export; it stays as it is.
        slots: Memories that a row can hold in each layer, that of the present step included.  None for as many as the
            capacity allows: then no row overflows.
        batch_size: Rows of every call; None for any number.

    Raises ValueError where the core has no slots (expire-span, transformer-xl, gtrxl and adaptive-span have), and where
    `slots` is None and it has no capacity.
    """
    if not isinstance(policy.core, ExpireSpan):
        raise ValueError(
            "Expect a policy with the core expire-span, transformer-xl, gtrxl or adaptive-span, "
            f"actual: {policy.core_config.name}"
        )
    slots = _slots(policy.core, slots)
    if batch_size is not None:
        check_whole("batch_size", batch_size, at_least=1)
    step = ActingStep(policy)
    rows = batch_size or 2  # torch.export takes one row, or none, for a constant
    assert isinstance(step.policy.core, ExpireSpan)
    # Refreshed, so that what a core derives from its weights is there before they are constants.
    state = fixed_slots(step.policy.core.refresh(step.policy.initial_state(rows)), slots)
    given = (
        step.policy.obs_to_tensor(_example(policy.observation_space, rows))[0],
        state,
        torch.ones(rows, dtype=torch.bool),
    )
    shapes = None if batch_size else _for_each(given, {0: torch.export.Dim("batch")})
    with torch.no_grad(), _no_checks_of_values():
        return torch.export.export(step, given, dynamic_shapes=shapes)


def to_onnx(
    policy: MemoryActorCriticPolicy,
    path: str | os.PathLike[str],
    *,
    slots: int | None = None,
    batch_size: int | None = None,
) -> None:
    """Write the deterministic acting step of a policy to an ONNX file; the arguments are those of `export_policy`.

    Inputs are `observation` (or `observation_NAME` for each part of a dictionary), `state_NAME` for each tensor of the
    state and `episode_start`; outputs are those above and `next_state_NAME`.  Raises ImportError where a package is
    missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {' and '.join(missing)}: pip install 'expirespan[export]'")
    program = export_policy(policy, slots=slots, batch_size=batch_size)
    assert program.example_inputs is not None
    given = program.example_inputs[0]
    inputs, outputs = _names(given, *program.module()(*given))
    # One axis is named, and with it all that are as long.
    named = None if batch_size else (*_for_each(given[:2], None), {0: "batch"})
    with warnings.catch_warnings():
        # Of torch's own exporter.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)
        made = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, dynamic_shapes=named, dynamo=True, verbose=False
        )
    assert made is not None
    made.save(os.fspath(path), external_data=False)


def _names(given: Any, outputs: Batch, after: Batch) -> tuple[list[str], list[str]]:
    """Of the inputs, and of the outputs."""
    observation, state, _ = given
    parts = [f"observation_{name}" for name in observation] if isinstance(observation, dict) else ["observation"]
    return (
        [*parts, *(f"state_{name}" for name in state), "episode_start"],
        [*outputs, *(f"next_state_{name}" for name in after)],
    )


def _example(space: spaces.Space, rows: int) -> Any:
    """Observations of so many rows that are in the space: zeros, or the first class."""
    if isinstance(space, spaces.Dict):
        return {name: _example(part, rows) for name, part in space.spaces.items()}
    first = space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
    return np.full((rows, *(space.shape or ())), first, space.dtype)


def _for_each(given: Any, axes: Any) -> Any:
    """`axes` in place of every tensor."""
    if isinstance(given, dict):
        return {name: _for_each(part, axes) for name, part in given.items()}
    return tuple(_for_each(part, axes) for part in given) if isinstance(given, tuple) else axes


class ActingStep(nn.Module):
    """The acting step of a copy of a policy, as the beginning of this file describes it."""

    low: Tensor
    high: Tensor
    start: Tensor

    def __init__(self, policy: MemoryActorCriticPolicy) -> None:
        super().__init__()
        self.policy = deepcopy(policy).cpu().requires_grad_(False)
        self.policy.set_training_mode(False)
        space = policy.action_space
        self.dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        bounds = (space.low, space.high) if isinstance(space, spaces.Box) else (0, 0)
        for name, value in zip(("low", "high", "start"), (*bounds, getattr(space, "start", 0)), strict=True):
            # In float64, which holds the bounds of all but 64-bit integers.
            dtype = torch.int64 if name == "start" else torch.float64
            self.register_buffer(name, torch.as_tensor(value).to(dtype), persistent=False)

    def forward(self, observation: Tensor | Batch, state: Batch, episode_start: Tensor) -> tuple[Batch, Batch]:
        """One step of B rows: what to do, and the state after it."""
        features, critic = self.policy._features(observation)
        core = self.policy.core
        assert isinstance(core, ExpireSpan)  # export_policy refuses others
        memory = as_state(core, state)
        # Asking for attention has all layers computed by torch.
        record = Record.STATE | Record.ATTENTION
        output = core(features.unsqueeze(1), memory, episode_start.unsqueeze(1), record=record)
        distribution, values = self.policy._heads(
            output.y.squeeze(1), critic, time=self.policy.time_of(memory, episode_start)
        )
        after, overflow = as_tensors(output.state)
        actions = self._environment_actions(distribution.mode())
        return {"actions": actions, **parameters(distribution), "values": values, "overflow": overflow}, after

    def _environment_actions(self, actions: Tensor) -> Tensor:
        space = self.policy.action_space
        if isinstance(space, spaces.Box):
            actions = actions.reshape(-1, *space.shape).double()
            if not self.dtype.is_floating_point:
                actions = actions.round()
            actions = actions.clamp(self.low, self.high)
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            actions = actions + self.start
        return actions.to(self.dtype)


def parameters(distribution: Distribution) -> Batch:
    """What a distribution is drawn from: `logits`, or `mean` and `std`."""
    if isinstance(distribution, LeanCategorical):
        return {"logits": distribution.log_probs}
    if isinstance(distribution, MultiCategoricalDistribution):
        return {"logits": torch.cat([part.logits for part in distribution.distribution], 1)}
    if isinstance(distribution, BernoulliDistribution):
        return {"logits": distribution.distribution.logits}
    assert isinstance(distribution, DiagGaussianDistribution)
    return {"mean": distribution.distribution.mean, "std": distribution.distribution.stddev}


def _slots(core: ExpireSpan, slots: int | None) -> int:
    if slots is not None:
        check_whole("slots", slots, at_least=1)
        return slots
    most = enough_slots(core)
    if core.config.capacity is None:
        raise ValueError(
            "Expect `slots` to be given where the core has no `capacity`: how many memories a row can hold, "
            f"{most} for all that the longest span keeps, actual: None"
        )
    return most


@contextmanager
def _no_checks_of_values() -> Iterator[None]:
    """Distributions check their parameters, whose values an export doesn't know."""
    checks = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(checks)
