"""An algorithm as a checkpoint and back: what is stored, and what can't be."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import (
    build_space,
    describe_space,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    under,
)
from .vec_env import environment_state, restore_environment_state

if TYPE_CHECKING:
    from .on_policy import MemoryOnPolicyAlgorithm


def plain_arguments(arguments: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """The arguments that JSON can hold, and the names of those it can't (classes and functions)."""
    plain: dict[str, Any] = {}
    missing: list[str] = []
    for name, value in arguments.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            plain[name], lost = plain_arguments(value, f"{prefix}{name}.")
            missing += lost
            continue
        try:
            json.dumps(value)
            plain[name] = value
        except TypeError:
            missing.append(f"{prefix}{name}")
    return plain, missing


def describe(model: "MemoryOnPolicyAlgorithm") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a checkpoint: the policy, and everything that training needs to continue."""
    arguments, missing = plain_arguments(model.arguments())
    state = environment_state(model.env) if model.env is not None else None
    tensors = (
        prefixed("policy", model.policy.state_dict())
        | prefixed("optimizer", optimizer_tensors(model.policy.optimizer))
        | {"random/torch": torch.get_rng_state()}
    )
    if model.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(model.device)
    if model._memory is not None:
        tensors |= prefixed("memory", model._memory.tensors())
    if state is not None and model._last_obs is not None and model._last_episode_starts is not None:
        tensors |= prefixed("env", {name: torch.from_numpy(array) for name, array in state["arrays"].items()})
        tensors |= prefixed("last_obs", _as_tensors(model._last_obs))
        tensors["last_episode_starts"] = torch.from_numpy(np.asarray(model._last_episode_starts, dtype=bool))
    document = {
        "algorithm": type(model).__name__,
        "arguments": arguments,
        "missing": missing,
        "observation_space": describe_space(model.observation_space),
        "action_space": describe_space(model.action_space),
        "n_envs": model.n_envs,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episodes": [{k: float(v) for k, v in episode.items()} for episode in model.ep_info_buffer or ()],
        "successes": [bool(success) for success in model.ep_success_buffer or ()],
        "pressure": model.pressure.state_dict(),
        "reward_scale": model.reward_scale.state_dict(),
        "generators": state["generators"] if state is not None else None,
    }
    return tensors, document


def read_arguments(document: dict[str, Any], given: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """The stored arguments, replaced by those given.

    Raises ValueError where the checkpoint is another algorithm's, or an argument that it could not hold isn't given.
    """
    if document["algorithm"] != algorithm:
        raise ValueError(f"Expect a checkpoint of {algorithm}, actual: {document['algorithm']}")
    lost = [name for name in document["missing"] if name.split(".")[0] not in given]
    if lost:
        raise ValueError(f"Expect `{lost[0].split('.')[0]}` to be given: a checkpoint can't hold {', '.join(lost)}")
    return {**document["arguments"], **given}


def stored_spaces(document: dict[str, Any]) -> tuple[Any, Any]:
    """Observation and action space."""
    return build_space(document["observation_space"]), build_space(document["action_space"])


def restore(
    model: "MemoryOnPolicyAlgorithm", tensors: dict[str, Tensor], document: dict[str, Any], continue_episodes: bool
) -> None:
    """Put a checkpoint into a model of the same shape; its episodes too, if asked for and if its environment can."""
    model.policy.load_state_dict(under("policy", tensors))
    load_optimizer_tensors(model.policy.optimizer, under("optimizer", tensors))
    model.num_timesteps, model._n_updates = document["num_timesteps"], document["n_updates"]
    model.restore_statistics(document["episodes"], document["successes"])
    model.pressure.load_state_dict(document["pressure"])
    model.reward_scale.load_state_dict(document["reward_scale"])
    if continue_episodes:
        torch.set_rng_state(tensors["random/torch"])
        if model.device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], model.device)
        same_rows = model.env is not None and model.n_envs == document["n_envs"]
        if same_rows and document["generators"] is not None and "last_episode_starts" in tensors:
            assert model.env is not None
            arrays = {name: tensor.numpy() for name, tensor in under("env", tensors).items()}
            restore_environment_state(model.env, {"arrays": arrays, "generators": document["generators"]})
            last_obs = {name: tensor.numpy() for name, tensor in under("last_obs", tensors).items()}
            model._last_obs = last_obs[""] if "" in last_obs else last_obs
            model._last_episode_starts = tensors["last_episode_starts"].numpy()
            memory = under("memory", tensors)
            model._memory = model.policy.core.restore_state(memory) if memory else None
            return
    if model.env is not None and model.seed is not None:
        # New episodes, and not once more those that training began with.
        mixed = np.random.SeedSequence([model.seed, model.num_timesteps]).generate_state(1)
        model.env.seed(int(mixed[0]) // 2)


def _as_tensors(obs: Any) -> dict[str, Tensor]:
    """An observation as named tensors; one without names is called ''."""
    named = obs if isinstance(obs, dict) else {"": obs}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in named.items()}
