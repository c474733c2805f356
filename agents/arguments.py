"""Arguments of the algorithms and their policies: which are known, and what to do instead of the others."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy

from ..memory.expire_span.budget import PressureConfig
from .learn.config import OnPolicyConfig

SB3_ARGUMENTS = ("stats_window_size", "tensorboard_log", "verbose", "seed", "device")
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_sde": ((False,), "state-dependent exploration is not supported"),
    "sde_sample_freq": ((-1,), "state-dependent exploration is not supported"),
    "rollout_buffer_class": ((None,), "rollouts are kept as whole sequences with their memory"),
    "rollout_buffer_kwargs": ((None, {}), "rollouts are kept as whole sequences with their memory"),
    "use_rms_prop": ((), "give policy_kwargs={'optimizer_class': torch.optim.RMSprop}"),
    "rms_prop_eps": ((), "give policy_kwargs={'optimizer_kwargs': {'eps': ...}}"),
}
"""SB3's arguments that can't be had: the values that ask for nothing, and what to do or why."""
REFUSED_OF_POLICIES: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_sde": ((False,), "state-dependent exploration is not supported"),
    "squash_output": ((False, None), "only state-dependent exploration has it, which is not supported"),
    "lstm_hidden_size": ((), "the memory is no LSTM; give policy_kwargs={'memory': {'width': ...}}"),
    "n_lstm_layers": ((), "the memory is no LSTM; give policy_kwargs={'memory': {'layers': ...}}"),
    "lstm_kwargs": ((), "the memory is no LSTM; give policy_kwargs={'memory': {'dropout': ...}}"),
    "shared_lstm": ((), "actor and critic always share one memory"),
    "enable_critic_lstm": ((), "actor and critic always share one memory"),
}
"""The same for `policy_kwargs` of SB3's policies and of RecurrentPPO's."""


def check_arguments(algorithm: str, given: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that no algorithm has, ValueError for those of SB3's that can't be had."""
    refuse(given, REFUSED)
    # Its own settings don't get here: what does and is a setting is that of another algorithm.
    foreign = [name for name in given if name in _known_settings()]
    if foreign:
        raise TypeError(f"Expect arguments of {algorithm}, actual: `{foreign[0]}`, which is another algorithm's")
    others = [name for name in given if name not in REFUSED]
    check_known(algorithm, others, [*SB3_ARGUMENTS, "policy_kwargs", *_known_settings()])


def check_policy(policy: Any, names: list[str], base: type, policy_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown name of a policy, a class that is none of `base`, or refused `policy_kwargs`."""
    if isinstance(policy, str) and policy not in names:
        known, near = ", ".join(names), difflib.get_close_matches(policy, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expect `policy` to be one of {known}, or a class, actual: {policy!r}{hint}")
    if not isinstance(policy, str) and not (isinstance(policy, type) and issubclass(policy, base)):
        raise ValueError(f"Expect `policy` to be a name or a subclass of {base.__name__}, actual: {policy!r}")
    refuse(policy_kwargs, REFUSED_OF_POLICIES)
    check_net_arch(policy_kwargs.get("net_arch"))


def check_policy_arguments(policy: type, given: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that SB3's policies don't have either, ValueError for those that can't be had."""
    refuse(given, REFUSED_OF_POLICIES)
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (policy, ActorCriticPolicy))
    check_known(policy.__name__, given, [name for name in {**theirs, **ours} if name not in ("self", "kwargs")])


def check_extractor_arguments(extractor: type, given: Iterable[str], settled: Iterable[str]) -> None:
    """Raise TypeError for arguments that the extractor doesn't have, or that are `settled` by the observations."""
    names = [name for name in inspect.signature(extractor).parameters if name != "observation_space"]
    known = [name for name in names if name not in settled]
    if unknown := [name for name in given if name not in names]:
        raise TypeError(
            f"Expect `features_extractor_kwargs` to be those of {extractor.__name__} ({', '.join(known) or 'none'}), "
            f"actual: `{unknown[0]}`"
        )


def check_net_arch(net_arch: Any) -> None:
    """Raise ValueError for layers that are described in another way, as in older versions of SB3."""
    parts = [net_arch.get(part, []) for part in ("pi", "vf")] if isinstance(net_arch, Mapping) else [net_arch or []]
    if not all(isinstance(part, list | tuple) and all(isinstance(width, Integral) for width in part) for part in parts):
        raise ValueError(
            f"Expect `net_arch` to be a list of widths or {{'pi': [...], 'vf': [...]}}, actual: {net_arch!r}"
        )


def refuse(given: Mapping[str, Any], refused: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Raise ValueError for an argument that can't be had, unless its value asks for nothing."""
    for name, (idle, why) in refused.items():
        value = given.get(name)
        if name in given and not any(value is nothing or value == nothing for nothing in idle):
            raise ValueError(f"Expect `{name}` not to be given: {why}; actual: {value!r}")


def check_known(owner: str, given: Iterable[str], known: list[str]) -> None:
    """Raise TypeError for the first name that is not known, with the nearest that is."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise TypeError(f"Expect arguments of {owner}, actual: `{name}`{hint}")


def _known_settings() -> list[str]:
    configs = [OnPolicyConfig, *OnPolicyConfig.__subclasses__(), PressureConfig]
    return [field.name for config in configs for field in fields(config)]
