"""What is to be trained: the options of the command line, one or several stages of them, and a run's config.json."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import tyro

from ..agents import A2CConfig, MemoryA2C, MemoryPPO, PPOConfig, PressureConfig
from ..agents.checkpoint.schema import check_complete, converted, reading
from ..checks import check_whole
from ..memory import (
    CORES,
    CoreConfig,
    ExpireSpanConfig,
    core_config,
)
from .arguments import check_options, given, options, parse_env_args, read, with_options
from .run_folder import CONFIGURATION, UNREADABLE, read_configuration
from .stages import CHANGEABLE, as_arguments, check_changeable, differences, in_stage, read_stage_file

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
ALGORITHMS: dict[str, type[MemoryPPO | MemoryA2C]] = {"ppo": MemoryPPO, "a2c": MemoryA2C}
FORMAT = 3
"""Of config.json; a file of this format holds every option, one without a number may lack those that came later."""
TOTAL_STEPS = 1_000_000
TIMELINE_EVERY = 250_000
ANEW = ("total_steps", "device", "workers", "timeline_every")
"""Options that may change when a run is resumed."""
MOST_ENVS = 2**16
"""Environments side by side, at most."""
MOST_WORKERS = 1024
"""Processes on one machine, at most."""
MOST_THREADS = 256
"""Threads of torch, at most: with a million of them it ends in a segmentation fault."""
EVALUATION_SEED = 1_000_000
"""Evaluation episodes are seeded from here on, far from those of training."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an agent whose memory decides what to keep."""

    env: str = "expirespan/Corridor-v0"
    """Id of the environment: one of this project's, of MiniGrid's, or any other of Gymnasium's."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment, as NAME=VALUE."""
    view_size: int | None = None
    """Cells across the agent's view, for this project's grids and MiniGrid's; None for the environment's own."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """The algorithm; its own options, and their defaults, are those shown below (`--algo a2c --help` for A2C's)."""
    core: str = "expire-span"
    """The memory: expire-span, transformer-xl, gtrxl, adaptive-span, compressive, lstm, gru, min-gru, gated-delta-net
    or none; its own options, and their defaults, are those shown below (`--core lstm --help` for the LSTM's).  Budget
    and penalty are those of expire-span alone."""
    total_steps: int | None = None
    """Environment steps over all environments; None for 1,000,000, or for what a resumed run was to have.  Of a resumed
    run with stages, the steps of all of them together: the last one gets those beyond the others."""
    num_envs: int = 32
    """Environments stepped side by side."""
    seed: int = 0
    """Seed of weights, actions and environments."""
    device: str | None = None
    """Where the policy lives: cpu or cuda; None for cpu, or for where that of a resumed run lived."""
    threads: int = 1
    """Threads of torch on the CPU.  For networks of this size a second one costs more than it brings."""
    workers: int | None = None
    """Processes that train together on this machine, each with its share of the environments; None for 1, or for those
    of a resumed run.  The training is the same.  torchrun starts them on several machines (docs/processes.md)."""
    out: Path | None = None
    """Run folder, which must not exist or be empty; runs/ENVIRONMENT-TIME where None."""
    init_from: Path | None = None
    """Run folder whose trained weights to start from, on another environment say; `stages` does so within one run.  It
    must have the same memory options, observations and actions."""
    stages: Path | None = None
    """A TOML file with a [[stage]] table for each of several stages, trained one after another in one run: easier tasks
    first.  Tables hold options by their names here (env, env_args, total_steps, num_envs, and those of budget and
    algorithm), such as learning_rate = 3e-4.  Options before the first table, and those of the command line, which
    replace them, hold for every stage; a stage's own replace both.  docs/curricula.md has an example."""
    resume: Path | None = None
    """Run folder to go on with.  Everything else but total_steps, device, workers and timeline_every then comes from
    its configuration."""
    checkpoint_every: int = 100_000
    """Steps between checkpoints.  The best so far, by the return of its latest 100 training episodes, is kept too."""
    timeline_every: int | None = None
    """Steps between episodes recorded for TensorBoard, picture and Memory tab, beside the one at the end; 0 for none at
    all; None for 250,000, or for those of a resumed run."""
    memory: CoreConfig = field(default_factory=ExpireSpanConfig)
    pressure: PressureConfig = field(default_factory=PressureConfig)
    learning: Annotated[PPOConfig | A2CConfig, tyro.conf.AvoidSubcommands] = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        check_whole("num_envs", self.num_envs, at_least=1, at_most=MOST_ENVS)
        check_whole("threads", self.threads, at_least=1, at_most=MOST_THREADS)
        if self.workers is not None:
            check_whole("workers", self.workers, at_least=1, at_most=MOST_WORKERS)
        check_whole("checkpoint_every", self.checkpoint_every, at_least=1)
        if self.total_steps is not None:
            check_whole("total_steps", self.total_steps, at_least=1)
        check_whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        if self.timeline_every is not None:
            check_whole("timeline_every", self.timeline_every, at_least=0)
        parse_env_args(self.env_args)
        wanted = type(core_config(self.core))
        if type(self.memory) is not wanted:
            raise TypeError(f"Expect `memory` to be a {wanted.__name__} for {self.core}, actual: {self.memory!r}")
        expected = ALGORITHMS[self.algo].config_class
        if type(self.learning) is not expected:
            raise TypeError(f"Expect `learning` to be a {expected.__name__} for {self.algo}, actual: {self.learning!r}")


GROUPS, PATHS = ("memory", "pressure", "learning"), ("out", "init_from", "resume", "stages")
_HINTS = get_type_hints(TrainConfig)
VALUES = msgspec.defstruct(
    "Values",
    [
        (f.name, str | None if f.name in PATHS else _HINTS[f.name], f.default)
        for f in fields(TrainConfig)
        if f.name not in GROUPS
    ],
    forbid_unknown_fields=True,
)
"""What config.json holds of a `TrainConfig` beside its groups; paths are text there."""
Stages = tuple[TrainConfig, ...]
"""What is trained one after another; a single configuration for most runs."""


def steps_of(stages: Sequence[TrainConfig]) -> list[int]:
    """The steps of each stage."""
    return [stage.total_steps or TOTAL_STEPS for stage in stages]


def default_config(args: list[str]) -> TrainConfig:
    """The defaults of the algorithm that these arguments of the command line name; PPO's where they name none."""
    asked = given(args)
    algo: Any = asked.get("algo", "ppo")
    chosen: dict[str, Any] = {}
    if algo in ALGORITHMS:
        chosen = {"algo": algo, "learning": ALGORITHMS[algo].config_class()}
    core = asked.get("core", "")
    if core in CORES:
        chosen |= {"core": core, "memory": CORES[core]()}
    return TrainConfig(**chosen)


def check_given(args: list[str], config: TrainConfig) -> None:
    """Raise ValueError for options that stand on the command line but can't be in force together."""
    asked = {name: value for name, value in given(args).items() if value != "None"}
    for algo, algorithm in ALGORITHMS.items():
        foreign = options(algorithm.config_class()).keys() - options(config.learning).keys()
        if algo != config.algo and (named := [name for name in asked if name.removeprefix("no_") in foreign]):
            said = f"as {named[0]} is an option of {algo} alone"
            raise ValueError(f"Expect `algo` to be {algo}, {said}, actual: {config.algo}")
    check_core_given(asked, config.core, config.memory)
    if "resume" in asked:
        check_resumable([name.removeprefix("no_") for name in given(args)])


def check_resumable(names: Sequence[str]) -> None:
    """Raise ValueError for options that a run that goes on can't be given."""
    if extra := [name for name in names if name not in ("resume", *ANEW)]:
        said = f"no other options than {', '.join(ANEW[:-1])} and {ANEW[-1]}"
        raise ValueError(f"Expect `resume` with {said}, actual: {', '.join(extra)}")


def check_core_given(asked: dict[str, str], core: str, memory: CoreConfig) -> None:
    """Raise ValueError for options of another core or of a budget that this one doesn't keep to."""
    core_config(asked.get("core", core))
    for name, other in CORES.items():
        foreign = options(other()).keys() - options(memory).keys()
        if name != core and (named := [option for option in asked if option.removeprefix("no_") in foreign]):
            raise ValueError(
                f"Expect `core` to be {name}, as {named[0]} is an option of it and not of {core}, actual: {core}"
            )
    if core != "expire-span" and (named := [option for option in asked if option in options(PressureConfig())]):
        raise ValueError(f"Expect `core` to be expire-span, as {named[0]} is an option of its budget, actual: {core}")
    if "penalty_weight" in asked and "memory_budget" in asked:
        raise ValueError(
            f"Expect `memory_budget` not to be given beside `penalty_weight`, actual: {asked['memory_budget']}"
        )


def to_json(stages: Stages) -> str:
    """The configuration as it stands in the run folder: the last stage's, with what differs in each of several."""
    document = {"format": FORMAT} | asdict(stages[-1])
    document["stages"] = differences(stages) if len(stages) > 1 else None
    return json.dumps(document, indent=2, default=str)


def from_json(text: str, path: Path = Path(CONFIGURATION)) -> Stages:
    """The stages that `to_json` wrote.  Raises ValueError, which names the path, where the text is not of this kind."""
    with reading(f"{UNREADABLE}: {path}"):
        values = json.loads(text)
        older = "format" not in values
        if (written_as := values.pop("format", FORMAT)) not in (2, FORMAT):
            raise ValueError(f"Expect the format 2 or {FORMAT}, or none as older runs have it, actual: {written_as!r}")
        if written_as == 2:  # of before there were several processes
            values.setdefault("workers", None)
        if older:  # of before there were other cores, and before there was this choice
            values.setdefault("core", "expire-span")
            values["learning"].setdefault("normalize_observations", False)
        else:
            check_complete("the configuration", values, [field.name for field in fields(TrainConfig)])
        parts = {name: _read_group(name, kind, values, complete=not older) for name, kind in _groups(values).items()}
        tables = values.pop("stages", None)
        if tables == []:
            raise ValueError("Expect `stages` to be null or a list of stages, actual: []")
        return tuple(_read_stage(values, parts, table) for table in tables or [{}])


def _groups(values: dict[str, Any]) -> dict[str, type[Any]]:
    """The classes of a configuration's groups, by its core and its algorithm."""
    learning = ALGORITHMS[values["algo"]].config_class
    return {"memory": type(core_config(values["core"])), "pressure": PressureConfig, "learning": learning}


def _read_group(name: str, kind: type[Any], values: dict[str, Any], *, complete: bool) -> Any:
    """One group, which is taken from the values."""
    own = values.pop(name)
    if complete:
        check_complete(f"`{name}`", own, [field.name for field in fields(kind)])
    if unknown := own.keys() - {field.name for field in fields(kind)}:
        raise ValueError(f"Expect `{name}` to hold settings of {kind.__name__}, actual: {', '.join(sorted(unknown))}")
    return kind(**own)


def _read_stage(values: dict[str, Any], parts: dict[str, Any], table: dict[str, Any]) -> TrainConfig:
    """The configuration with these values and groups, but for what stands in a stage's table."""
    if unknown := table.keys() - CHANGEABLE:
        raise ValueError(f"Expect options of a stage, actual: {', '.join(sorted(unknown))}")
    own = {name: value for name, value in table.items() if name in VALUES.__struct_fields__}
    plain = msgspec.structs.asdict(converted(values | own, VALUES))
    paths = {name: plain[name] and Path(plain[name]) for name in PATHS}
    config = TrainConfig(**plain | paths, **parts)
    return with_options(config, {name: table[name] for name in table.keys() - own.keys()})


def read_stages(run: Path) -> Stages:
    """The stages of a run folder.  Raises ValueError where it has no configuration."""
    return from_json(read_configuration(run), run / CONFIGURATION)


def read_run(run: Path) -> TrainConfig:
    """The configuration of a run folder, the last stage's where there are several; raises as `read_stages` does."""
    return read_stages(run)[-1]


def parse(args: list[str]) -> TrainConfig:
    """The configuration that arguments of the command line describe."""
    default = default_config(args)
    check_given(args, default)
    return read(tyro.conf.OmitArgPrefixes[TrainConfig], args, "expirespan-train", default)


def parse_stages(args: list[str]) -> Stages:
    """The stages that arguments of the command line describe; one where they name no file of stages.

    Raises ValueError, which says in which stage, where they or the file describe none.
    """
    file = given(args).get("stages", "")
    if file in ("", "None") or given(args).get("resume", "None") != "None":
        config = parse(args)
        return (config if config.resume else replace(config, total_steps=config.total_steps or TOTAL_STEPS),)
    common, tables = read_stage_file(Path(file))
    first = as_arguments(common)
    check_options(first, options(default_config([*first, *args])))
    return tuple(_parse_stage([*first, *args], table, number) for number, table in enumerate(tables, 1))


def _parse_stage(shared: list[str], table: dict[str, Any], number: int) -> TrainConfig:
    """A stage, from the arguments of all stages and its own table."""
    with in_stage(number):
        own = as_arguments(table)
        check_options(own, options(default_config(shared)))
        check_changeable(table)
        config = parse([*shared, *own])
        return replace(config, total_steps=config.total_steps or TOTAL_STEPS, stages=None)


def budget_of(pressure: PressureConfig) -> int | None:
    """How many memories a run was asked to hold per layer."""
    asked = pressure.memory_budget if pressure.has_budget else None
    return None if asked is None else max(1, math.floor(asked))
