"""Settings as JSON and back: numbers, texts, and the few classes and schedules that a file may name."""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

SCHEDULES = {"constant": ConstantSchedule, "linear": LinearSchedule}
"""Schedules of SB3 whose settings a file can hold."""
OURS = __name__.removesuffix("checkpoint.values")
MODULES = ("torch.nn.modules.", "torch.optim.", "stable_baselines3.common.", OURS)
"""Where the classes live that a file may name: reading it must not import anything else."""
KINDS = (nn.Module, torch.optim.Optimizer)
DEEPEST = 20
"""Dictionaries and lists inside each other, at most."""
MISSING = object()
"""Stands for what has no such form."""


def plain(value: Any, name: str, missing: list[str], above: tuple[int, ...] = ()) -> Any:
    """The value as JSON knows it; what has no such form is left out, and its name added to `missing`.

    Such are dictionaries whose keys are no texts, and what holds itself; `above` are the ids of what holds the value.
    A list is left out as a whole.  Classes of torch, of SB3 and of this package become {"class": "module:name"}, SB3's
    schedules {"schedule": ...}.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    if isinstance(value, Mapping | list | tuple):
        return _plain_parts(value, name, missing, above)
    if isinstance(value, type) and issubclass(value, KINDS) and value.__module__.startswith(MODULES):
        return {"class": class_name(value)}
    for kind, schedule in SCHEDULES.items():
        if type(value) is schedule:
            return {"schedule": kind, **{key: float(part) for key, part in vars(value).items()}}
    if isinstance(value, np.generic):
        value = value.item()
    try:
        json.dumps(value)
        return value
    except (TypeError, ValueError):
        missing.append(name)
        return MISSING


def _plain_parts(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], name: str, missing: list[str], above: tuple[int, ...]
) -> Any:
    """`plain` of a dictionary, without its parts that have no such form, or of a list that has no such part."""
    named = isinstance(value, Mapping)
    unknown = named and not all(isinstance(key, str) for key in value)
    if unknown or id(value) in above or len(above) == DEEPEST:
        missing.append(name)
        return MISSING
    above = (*above, id(value))
    if named:
        parts = {key: plain(part, f"{name}.{key}", missing, above) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not MISSING}
    lost: list[str] = []
    items = [plain(part, name, lost, above) for part in value]
    if lost:
        missing.append(name)
        return MISSING
    return items


def rebuilt(value: Any) -> Any:
    """What `plain` made JSON of.  Raises ValueError for a class that a file must not name."""
    if isinstance(value, list):
        return [rebuilt(part) for part in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"class"}:
        return _named_class(value["class"])
    if "schedule" in value:
        settings = dict(value)
        kind = settings.pop("schedule")
        if kind not in SCHEDULES:
            raise ValueError(f"Expect a schedule of {sorted(SCHEDULES)} in the checkpoint, actual: {kind!r}")
        return SCHEDULES[kind](**settings)
    return {key: rebuilt(part) for key, part in value.items()}


def class_name(kind: type) -> str:
    """As a file names it."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _named_class(path: str) -> type:
    module, _, name = str(path).partition(":")
    loaded = sys.modules.get(module) if module.startswith(MODULES) else None
    if loaded is None and module.startswith((OURS, "stable_baselines3.common.")):
        loaded = importlib.import_module(module)
    found = getattr(loaded, name, None)
    if not (isinstance(found, type) and issubclass(found, KINDS)):
        raise ValueError(
            f"Expect a network, extractor or optimizer class of torch, SB3 or this package, actual: {path}"
        )
    return found
