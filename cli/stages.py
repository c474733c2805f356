"""Curricula: stages of training one after another, each from the weights of the one before, in one run folder.

A file of stages is TOML: options of all stages first, then one [[stage]] table for each with its own.  They have the
names, values and checks of the command line, since each stage is read as a command line of its own:

    options of all stages, those given on the command line, those of the stage

in this order, of which later ones replace earlier ones.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agents import A2CConfig, PPOConfig, PressureConfig
from ..agents.checkpoint.file import read_checkpoint
from ..envs.make import BrokenEnvironment
from .arguments import options

OF_A_STAGE = ("env", "env_args", "view_size", "total_steps", "num_envs")
CHANGEABLE = {*OF_A_STAGE, *options(PressureConfig), *options(PPOConfig), *options(A2CConfig)}
"""Options that may differ between stages.  Others are the network's, or the whole run's."""


@contextmanager
def in_stage(number: int) -> Iterator[None]:
    """Let errors about what was asked for say in which stage it was."""
    try:
        yield
    except (ValueError, TypeError, BrokenEnvironment) as error:
        raise ValueError(f"{error} (stage {number})") from error


def read_stage_file(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The options of all stages, and those of each.  Raises ValueError where the file does not hold such tables."""
    if not path.is_file():
        raise ValueError(f"Expect `stages` to be an existing file, actual: {path}")
    try:
        common = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expect `stages` to be a TOML file, actual: {path} ({error})") from error
    tables = common.pop("stage", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"Expect `stages` to be a file with a [[stage]] table for each stage, actual: {path}")
    for name in ("help", "h", "resume", "stages"):
        if name in common:
            raise ValueError(f"Expect `{name}` on the command line alone, actual: {common[name]} in {path}")
    return common, tables


def as_arguments(table: Mapping[str, Any]) -> list[str]:
    """The options of a table as they would stand on the command line."""
    words: list[str] = []
    seen: dict[str, str] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if (before := seen.setdefault(name.removeprefix("no-"), key)) != key:
            raise ValueError(f"Expect `{before}` once in a table, actual: {key!r} = {value!r} as well")
        if not name or (isinstance(value, list) and any(str(v).startswith("-") for v in value)):
            raise ValueError(f"Expect an option and its value, actual: {key!r} = {value!r}")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, Mapping):
            words += [f"--{name}", *(f"{part}={json.dumps(inner, default=str)}" for part, inner in value.items())]
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}={value}")
    return words


def check_changeable(table: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that can't differ between stages."""
    for key, value in table.items():
        name = key.replace("-", "_")
        if name.removeprefix("no_") not in CHANGEABLE:
            said = "to stand before the stages or on the command line, as it holds for all of them"
            raise ValueError(f"Expect `{name}` {said}, actual: {value}")


def differences(stages: Sequence[Any]) -> list[dict[str, Any]]:
    """Of each stage's configuration: environment, steps, and every option that is not the same in all stages."""
    tables = [options(stage) for stage in stages]
    shown = [name for name in tables[0] if name in OF_A_STAGE or any(t[name] != tables[0][name] for t in tables)]
    return [{name: table[name] for name in shown} for table in tables]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the training of a run folder stands."""

    stage: int = 0
    """The stage of its checkpoint, from 1 on; 0 where it has none."""
    began: int = 0
    """Steps trained before that stage."""
    steps: int = 0
    """Steps trained in all."""
    processes: int = 1
    """Processes that trained it."""
    threads: int | None = None
    """Threads of torch that it was trained with; None where that isn't known."""

    def next_stage(self, totals: Sequence[int]) -> int:
        """The stage that training goes on in, given the steps of each; one more than there are where all are done.

        Raises ValueError where the checkpoint is of none of these stages.
        """
        if self.stage > len(totals):
            raise ValueError(f"Expect a checkpoint of one of {len(totals)} stages, actual: of stage {self.stage}")
        done = self.stage == 0 or self.steps - self.began >= totals[self.stage - 1]
        return self.stage + done


def position(checkpoint: Path) -> Position:
    """Where the run of this checkpoint, which may not exist yet, stands."""
    if not checkpoint.is_file():
        return Position()
    document = read_checkpoint(checkpoint)[1]
    # Checkpoints from before there were stages name none.
    stage, began = document.get("stage", 1), document.get("stage_began", 0)
    return Position(
        stage=stage,
        began=began,
        steps=document["num_timesteps"],
        processes=document["processes"],
        threads=document.get("threads"),
    )
