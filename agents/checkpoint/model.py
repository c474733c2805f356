"""An algorithm as a checkpoint and back: what is stored, and what can't be."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule
from torch import Tensor, nn

from ... import processes
from ...envs.replay import AnotherEpisode
from ...memory import CORES, PressureConfig, core_config
from ..encoders import uncompiled
from ..learn.config import pick
from ..observations import kinds_before_version_2
from ..vec_env import environment_state, restore_environment_state
from .file import (
    COMPLETE,
    build_space,
    describe_space,
    load_optimizer_tensors,
    optimizer_tensors,
    prefixed,
    under,
)
from .schema import Arguments, check_complete, converted, reading, shortened
from .values import MISSING, class_name, plain, rebuilt

if TYPE_CHECKING:
    from ..learn.on_policy import MemoryOnPolicyAlgorithm


class Part(NamedTuple):
    """What one process has of its own: where its episodes and its random numbers stand."""

    tensors: dict[str, Tensor]
    generators: Any
    returns: list[float]


def own_part(model: "MemoryOnPolicyAlgorithm") -> Part:
    """What this process has of its own."""
    tensors = {"random/torch": torch.get_rng_state()}
    if model.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(model.device)
    if model._memory is not None:
        tensors |= prefixed("memory", {name: tensor.cpu() for name, tensor in model._memory.tensors().items()})
    state = environment_state(model.env) if model.env is not None else None
    if state is not None and model._last_obs is not None and model._last_episode_starts is not None:
        tensors |= prefixed("env", {name: torch.from_numpy(array) for name, array in state["arrays"].items()})
        tensors |= prefixed("last_obs", _as_tensors(model._last_obs))
        tensors["last_episode_starts"] = torch.from_numpy(np.asarray(model._last_episode_starts, dtype=bool))
    generators = state["generators"] if state is not None else None
    return Part(tensors, generators, model.reward_scale.state_dict()["returns"])


def describe(model: "MemoryOnPolicyAlgorithm", others: Sequence[Part] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document of a checkpoint: the policy, and everything that training needs to continue.

    `others` are what all processes but the first have of their own; without them only one could go on exactly.

    Raises ValueError or TypeError, as the constructor does, for a setting that has been changed to one out of range.
    """
    missing: list[str] = []
    arguments = {name: plain(value, name, missing) for name, value in model.arguments().items()}
    arguments = {name: value for name, value in arguments.items() if value is not MISSING}
    # What stands for a function that an earlier file could not hold is still not that function.
    stand_ins = [name for name, value in model.stand_ins.items() if arguments.get(name) == value]
    arguments = {name: value for name, value in arguments.items() if name not in stand_ins}
    missing += stand_ins
    arguments["policy_kwargs"].pop("observations", None)  # the policy's own are stored below, under any names
    _check_settings(type(model), rebuilt(arguments))  # before what can't be read replaces what can
    policy = uncompiled(model.policy)
    own = own_part(model)
    tensors = (
        prefixed("policy", policy_tensors(policy))
        | prefixed("optimizer", optimizer_tensors(policy.optimizer))
        | own.tensors
    )
    for number, other in enumerate(others, 1):
        tensors |= prefixed(f"process{number}", other.tensors)
    document = {
        "algorithm": type(model).__name__,
        "arguments": arguments,
        "missing": missing,
        "last_values": model.last_values(missing),
        "observation_space": describe_space(model.observation_space),
        "action_space": describe_space(model.action_space),
        "n_envs": model.n_envs,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "stage": model.stage,
        "stage_began": model.stage_began,
        "observations": policy.observations,
        "optimizer": class_name(policy.optimizer_class),
        "episodes": [_plain_episode(episode) for episode in model.ep_info_buffer or ()],
        "successes": [bool(success) for success in model.ep_success_buffer or ()],
        "controller": None if model.controller is None else model.controller.state_dict(),
        "reward_scale": model.reward_scale.state_dict(),
        "generators": own.generators,
        "processes": processes.count(),
        "others": [{"generators": other.generators, "returns": other.returns} for other in others],
        "threads": torch.get_num_threads(),
        "pending_log": model.pending_log(),
    }
    return tensors, document


def _plain_episode(episode: Mapping[str, Any]) -> dict[str, Any]:
    """SB3's record of an episode, which a Monitor's `info_keywords` may have put anything into."""
    return plain(episode, "episode", [])


def policy_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """Weights by their names, which `torch.compile` of a part must not change."""
    return {_uncompiled_name(name): tensor for name, tensor in policy.state_dict().items()}


def load_policy_tensors(policy: nn.Module, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
    """Put back what `policy_tensors` returned."""
    policy.load_state_dict(named_as_in(policy, tensors), strict=strict)


def named_as_in(policy: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that this policy has for them, whatever parts were or are compiled."""
    names = {_uncompiled_name(name): name for name in policy.state_dict()}
    return {names.get(_uncompiled_name(name), name): tensor for name, tensor in tensors.items()}


def _uncompiled_name(name: str) -> str:
    return name.replace("_orig_mod.", "")


def read_arguments(
    document: dict[str, Any], given: Mapping[str, Any], algorithm: "type[MemoryOnPolicyAlgorithm]", needed: bool
) -> dict[str, Any]:
    """The stored arguments, replaced by those given; of `policy_kwargs`, those of the same names.

    A function for the step size or the clip range can't be stored.  Where training goes on (`needed`) it must be given
    again; otherwise its last value stands for it, since only training asks for it: a constant function, as a schedule
    may end at 0, where a number may not.

    A stored setting that is out of range, as older versions wrote them, is refused unless another one is given.

    Raises ValueError where the checkpoint is another algorithm's, or an argument that it could not hold isn't given.
    """
    if document["algorithm"] != algorithm.__name__:
        raise ValueError(f"Expect a checkpoint of {algorithm.__name__}, actual: {document['algorithm']}")
    with reading("The arguments in the checkpoint are not those of an agent"):
        stored = rebuilt(document["arguments"])
        _check_stored(algorithm, stored, document["missing"] if document[COMPLETE] else None, given)
    last = {name: ConstantSchedule(value) for name, value in document.get("last_values", {}).items()}
    lost = [name for name in document["missing"] if name.split(".")[0] not in given]
    if wanted := [name for name in lost if needed or name not in last]:
        raise ValueError(f"Expect `{wanted[0].split('.')[0]}` to be given: a checkpoint can't hold {', '.join(lost)}")
    arguments = {**stored, **{name: last[name] for name in lost}, **given}
    policy = {**stored["policy_kwargs"], **(arguments["policy_kwargs"] or {})}
    same_core = policy.get("core") == stored["policy_kwargs"].get("core")
    if same_core and isinstance(policy.get("memory"), Mapping):  # what isn't given of it is as it was
        policy["memory"] = {**(stored["policy_kwargs"].get("memory") or {}), **policy["memory"]}
    if "observations" not in policy:
        known = document.get("observations")
        policy["observations"] = known or kinds_before_version_2(build_space(document["observation_space"]))
    return {**arguments, "policy_kwargs": policy}


def _check_stored(
    algorithm: "type[MemoryOnPolicyAlgorithm]",
    arguments: Mapping[str, Any],
    missing: list[str] | None,
    given: Mapping[str, Any],
) -> None:
    """Raise ValueError or TypeError where these are not arguments as a checkpoint holds them.

    All of them must be there but those that a checkpoint could not hold; None for an older one, which may lack any.
    What those in place of which others are `given` are, doesn't matter.
    """
    used = {name: value for name, value in arguments.items() if name == "policy_kwargs" or name not in given}
    policy = _check_settings(algorithm, used)
    if missing is not None:
        settings = _settings_of(algorithm)
        lost = {name.split(".")[0] for name in missing}
        check_complete("the arguments", arguments, sorted({*settings, *Arguments.__struct_fields__} - lost))
        check_complete("`policy_kwargs`", policy, ("core", "memory", "time_aware_critic"))
        check_complete("`memory`", policy["memory"], [field.name for field in fields(CORES[policy["core"]])])
    core_config(policy.get("core"), policy.get("memory"))


def _check_settings(algorithm: "type[MemoryOnPolicyAlgorithm]", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The `policy_kwargs` of these; raises ValueError or TypeError where one of the others is out of range."""
    settings = _settings_of(algorithm)
    read = converted({name: value for name, value in arguments.items() if name not in settings}, Arguments)
    pick(algorithm.config_class, algorithm.numbers(arguments))
    pick(PressureConfig, arguments)
    return read.policy_kwargs


def _settings_of(algorithm: "type[MemoryOnPolicyAlgorithm]") -> list[str]:
    return [field.name for config in (algorithm.config_class, PressureConfig) for field in fields(config)]


def stored_spaces(document: dict[str, Any]) -> tuple[Any, Any]:
    """Observation and action space.  Raises ValueError where the checkpoint describes none."""
    with reading("The spaces in the checkpoint are not those of an environment"):
        return build_space(document["observation_space"]), build_space(document["action_space"])


def check_policy_tensors(model: "MemoryOnPolicyAlgorithm", tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the model's policy has other tensors than these, before it takes any room.

    The policy is made on torch's device "meta", which holds shapes alone.
    """
    config = core_config(model.policy_kwargs.get("core"), model.policy_kwargs.get("memory"))
    layers = getattr(config, "layers", 0)
    if layers > len(tensors):
        raise ValueError(f"Expect `layers` of the memory to be those that the checkpoint holds, actual: {layers}")
    with torch.device("meta"), reading("The arguments in the checkpoint are not those of a policy"):
        policy = model.policy_class(
            model.observation_space, model.action_space, lambda _: 0.0, use_sde=False, **model.policy_kwargs
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that such a policy takes no values
        _load(policy, tensors)


def _load(policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_policy_tensors`, with a ValueError where they are another network's."""
    try:
        load_policy_tensors(policy, tensors)
    except RuntimeError as error:
        raise ValueError(
            f"Expect `policy_kwargs` of the networks that the checkpoint holds, actual: {shortened(error)}"
        ) from error
    for name, tensor in policy_tensors(policy).items():
        if name in tensors and tensor.dtype != tensors[name].dtype:
            raise ValueError(f"Expect `policy/{name}` to be {tensor.dtype}, actual: {tensors[name].dtype}")
        # Extractors that actor and critic share are stored under several names.
        same_shape = name in tensors and tensor.shape == tensors[name].shape
        if same_shape and not tensor.is_meta and not torch.equal(tensor.cpu(), tensors[name]):
            raise ValueError(f"Expect `policy/{name}` to be what is stored of it under other names, actual: another")


def restore(
    model: "MemoryOnPolicyAlgorithm", tensors: dict[str, Tensor], document: dict[str, Any], continue_episodes: bool
) -> None:
    """Put a checkpoint into a model of the same shape; its episodes too, if asked for and if its environment can.

    Raises ValueError where the networks have other shapes, or where something in the file is not what was written.
    """
    _load(model.policy, under("policy", tensors))
    with reading("The checkpoint does not fit its agent"):
        _restore(model, tensors, document, continue_episodes)


def _restore(
    model: "MemoryOnPolicyAlgorithm", tensors: dict[str, Tensor], document: dict[str, Any], continue_episodes: bool
) -> None:
    """What is not of the policy."""
    load_optimizer(model, tensors, document)
    model.num_timesteps, model._n_updates = document["num_timesteps"], document["n_updates"]
    model.stage, model.stage_began = document.get("stage", 1), document.get("stage_began", 0)  # not in older ones
    model.restore_statistics(document["episodes"], document["successes"])
    model.log_again = document["pending_log"]
    if model.controller is not None and document["controller"] is not None:
        model.controller.load_state_dict(document["controller"])
    found = _of_this_process(tensors, document)
    # Where other processes trained, returns of other episodes are none of these.
    own = {} if found is None else {"returns": found.returns}
    model.reward_scale.load_state_dict(document["reward_scale"] | {"returns": []} | own)
    if continue_episodes and found is not None:
        tensors = found.tensors
        torch.set_rng_state(tensors["random/torch"])
        if model.device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], model.device)
        same_rows = model.env is not None and model.n_envs == document["n_envs"]
        if same_rows and found.generators is not None and "last_episode_starts" in tensors:
            with suppress(AnotherEpisode):  # chance from elsewhere: new episodes begin
                _continue_episodes(model, tensors, found.generators)
                return
    if model.env is not None and model.seed is not None:
        # New episodes, and not once more those that training began with.
        mixed = np.random.SeedSequence([model.seed, model.num_timesteps]).generate_state(1)
        model.env.seed(int(mixed[0]) // 2 + processes.rank() * model.n_envs)


def load_optimizer(model: "MemoryOnPolicyAlgorithm", tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Continue from the state of the stored optimizer; another one stays as it is, and in a new model begins anew."""
    name = class_name(model.policy.optimizer_class)
    if document.get("optimizer", name) == name:
        load_optimizer_tensors(model.policy.optimizer, under("optimizer", tensors))


def _of_this_process(tensors: dict[str, Tensor], document: dict[str, Any]) -> Part | None:
    """What a checkpoint holds of this process; None where other processes trained."""
    number, others = processes.rank(), document["others"]
    if document["processes"] != processes.count() or len(others) != processes.count() - 1:
        return None
    if not number:
        return Part(tensors, document["generators"], document["reward_scale"]["returns"])
    own = others[number - 1]
    return Part(under(f"process{number}", tensors), own["generators"], own["returns"])


def _continue_episodes(model: "MemoryOnPolicyAlgorithm", tensors: dict[str, Tensor], generators: list[Any]) -> None:
    """Put back where the episodes stood: observations, memory and environments, all of it or nothing."""
    assert model.env is not None
    last_obs = {name: tensor.numpy() for name, tensor in under("last_obs", tensors).items()}
    starts = tensors["last_episode_starts"]
    _check_last(last_obs, starts, model.observation_space, model.n_envs)
    stored = under("memory", tensors)
    memory = model.policy.core.restore_state(stored) if stored else None
    if memory is not None and (rows := len(next(iter(memory.tensors().values())))) != model.n_envs:
        raise ValueError(f"Expect the entries `memory` to be of {model.n_envs} environments, actual: {rows}")
    arrays = {name: tensor.numpy() for name, tensor in under("env", tensors).items()}
    restore_environment_state(model.env, {"arrays": arrays, "generators": generators})
    model._last_obs = last_obs[""] if "" in last_obs else last_obs
    model._last_episode_starts, model._memory = starts.numpy(), memory


def _check_last(obs: dict[str, np.ndarray], starts: Tensor, space: gym.Space, rows: int) -> None:
    """Raise ValueError where these are not observations of the space and flags of so many environments."""
    parts = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    expected = {name: (np.dtype(part.dtype), (rows, *(part.shape or ()))) for name, part in parts.items()}
    found = {name: (array.dtype, array.shape) for name, array in obs.items()}
    if found != expected:
        raise ValueError(f"Expect the entry `last_obs` to be {expected}, actual: {found}")
    if starts.dtype != torch.bool or starts.shape != (rows,):
        actual = f"{starts.dtype} {list(starts.shape)}"
        raise ValueError(f"Expect the entry `last_episode_starts` to be bool [{rows}], actual: {actual}")


def _as_tensors(obs: Any) -> dict[str, Tensor]:
    """An observation as named tensors; one without names is called ''."""
    named = obs if isinstance(obs, dict) else {"": obs}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in named.items()}
