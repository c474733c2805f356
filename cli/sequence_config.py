"""What a sequence model is trained on and how: the options of expirespan-train-sequence, and its run's config.json."""

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec
import tyro

from ..agents.checkpoint.schema import check_complete, converted, reading
from ..checks import check_whole
from ..memory import CORES, CoreConfig, ExpireSpanConfig, PressureConfig, core_config
from ..sequences.collision import Collision
from ..sequences.collision_world import CollisionConfig
from ..sequences.episode import TokenEpisode, read_episode
from ..sequences.recall import AssociativeRecall, AssociativeRecallConfig, Copy, CopyConfig
from ..sequences.streams import Stream
from ..sequences.text import SPLITS, Text, TextConfig
from ..sequences.training import SequenceConfig
from .arguments import given, parse_env_args, read, sizes_of
from .config import MOST_THREADS, MOST_WORKERS, check_core_given
from .presets import PRESETS, with_preset
from .run_folder import CONFIGURATION, UNREADABLE, read_configuration

CHECKPOINT = "checkpoint.safetensors"
KIND = "sequence"
"""Of the run, as its config.json says: one of expirespan-train has none."""
FORMAT = 1
SPLIT_SEED = 1_000_000
"""Added to the seed of training for what tasks draw to validate, twice that to test."""
DRAWN: dict[str, tuple[type[Any], Callable[..., Stream]]] = {
    "collision": (CollisionConfig, Collision),
    "copy": (CopyConfig, Copy),
    "recall": (AssociativeRecallConfig, AssociativeRecall),
}
"""Tasks that are drawn from a seed: their arguments, and the stream of them."""


@dataclass(frozen=True, kw_only=True)
class TrainSequenceConfig:
    """Train a model with memory on a stream of tokens: text, copying, recall, or colliding objects."""

    preset: Literal[*PRESETS] | None = None  # pyright: ignore[reportInvalidTypeForm]  # made from the table
    """Published settings by name, in place of the defaults: enwik8-12l, enwik8-8l, collision-16k, collision-32k,
    collision-64k or copy-16k; options given beside it replace its own (docs/sequences.md)."""
    task: Literal["text", "collision", "copy", "recall"] = "copy"
    """What is learned: the next byte of a file (text), where two objects collided last (collision), to repeat tokens
    after distractors (copy), values by their keys (recall)."""
    data: Path | None = None
    """The file of text: any bytes.  A run keeps its absolute path and a digest: a file that has been moved may be named
    anew, one with other bytes is refused."""
    task_args: tuple[str, ...] = ()
    """Arguments of the task, as NAME=VALUE; docs/sequences.md lists them."""
    core: str = "expire-span"
    """The memory: expire-span, transformer-xl, gtrxl, adaptive-span, compressive, lstm, gru, min-gru, gated-delta-net
    or none; its own options, and their defaults, are those shown below (`--core lstm --help` for the LSTM's)."""
    updates: int = 10_000
    """Steps of the optimizer."""
    seed: int = 0
    """Seed of weights, of where training begins in a text, and of what other tasks draw."""
    device: str | None = None
    """Where the model lives: cpu or cuda; None for cpu.  That of a resumed run stays where it lived."""
    threads: int = 1
    """Threads of torch on the CPU."""
    workers: int | None = None
    """Processes that train together on this machine, each with its share of the rows; None for 1, or for those of a
    resumed run.  The training is the same.  torchrun starts them on several machines (docs/processes.md)."""
    out: Path | None = None
    """Run folder, which must not exist or be empty; runs/TASK-TIME where None."""
    resume: Path | None = None
    """Run folder to go on with.  Its configuration stands in place of the defaults, and only updates, learning_rate,
    device, data, workers and timeline_every may be given anew."""
    log_every: int = 50
    """Updates between two points of the curves."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""
    evaluate_every: int = 1_000
    """Updates between evaluations on data that isn't trained on; 0 for none."""
    evaluate_windows: int = 50
    """Windows of such an evaluation, which reads on, with its memory, where the one before ended."""
    timeline_every: int = 5_000
    """Updates between recordings for TensorBoard, pictures and Memory tab, beside the one at the end; 0 for none at
    all."""
    timeline_steps: int = 1_000
    """Tokens of such a recording, at most: the beginning of what isn't trained on, up to the first reset."""
    memory: CoreConfig = field(default_factory=ExpireSpanConfig)
    pressure: PressureConfig = field(default_factory=PressureConfig)
    learning: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        for name in ("updates", "log_every", "checkpoint_every", "evaluate_windows", "timeline_steps"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("threads", self.threads, at_least=1, at_most=MOST_THREADS)
        if self.workers is not None:
            check_whole("workers", self.workers, at_least=1, at_most=MOST_WORKERS)
        check_whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        for name in ("evaluate_every", "timeline_every"):
            check_whole(name, getattr(self, name), at_least=0)
        wanted = type(core_config(self.core))
        if type(self.memory) is not wanted:
            raise TypeError(f"Expect `memory` to be a {wanted.__name__} for {self.core}, actual: {self.memory!r}")
        if (self.task == "text") != (self.data is not None) and self.resume is None:
            wanted = "a file for the task text" if self.task == "text" else f"None for the task {self.task}"
            raise ValueError(f"Expect `data` to be {wanted}, actual: {self.data}")
        if self.resume is None:
            task_config(self)


def task_config(config: TrainSequenceConfig) -> Any:
    """The arguments of the task.  Raises ValueError where it has none of a name, or one is out of its bounds."""
    kind: Any = DRAWN[config.task][0] if config.task in DRAWN else TextConfig
    values = parse_env_args(config.task_args, "task_args")
    names = [f.name for f in fields(kind) if f.name != "path"]
    if unknown := [name for name in values if name not in names]:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        said = f"arguments of {config.task} ({', '.join(names)})"
        raise ValueError(f"Expect `task_args` to be {said}, actual: {unknown[0]}{hint}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**values, **({} if config.data is None else {"path": str(config.data)}))


def sizes(config: TrainSequenceConfig) -> dict[str, Any]:
    """What the memory that a training takes goes by, the arguments of its task included."""
    return sizes_of(config) | parse_env_args(config.task_args, "task_args")


def make_stream(config: TrainSequenceConfig, split: str, *, whole: bool = False) -> Stream:
    """The stream of a split (train, valid or test); of text as a `whole` where it is to be read once.

    Raises ValueError where the data is missing or too small.
    """
    own, rows = task_config(config), config.learning.batch_size
    if config.task not in DRAWN:
        return Text(own, batch_size=rows, split=split, seed=config.seed, whole=whole)
    return DRAWN[config.task][1](own, batch_size=rows, seed=config.seed + SPLITS.index(split) * SPLIT_SEED)


def make_episode(config: TrainSequenceConfig, split: str, number: int, steps: int) -> TokenEpisode:
    """An episode of a split to look at, of at most so many steps: of a text those after number * steps bytes.

    Raises ValueError where the data is missing or ends before.
    """
    text = config.task not in DRAWN
    one = replace(config, learning=replace(config.learning, batch_size=1), seed=config.seed + number * (not text))
    return read_episode(make_stream(one, split, whole=text), steps, number * steps * text)


def default_config(args: list[str]) -> TrainSequenceConfig:
    """The configuration of the run that these arguments of the command line resume, or the defaults of their core."""
    asked = given(args)
    if (run := asked.get("resume", "None")) not in ("", "None"):
        return read_run(Path(run))
    core = asked.get("core", "")
    return TrainSequenceConfig(**({"core": core, "memory": CORES[core]()} if core in CORES else {}))


def parse(args: list[str]) -> TrainSequenceConfig:
    """The configuration that arguments of the command line describe.  Raises ValueError where they describe none."""
    args = with_preset(args)
    default = default_config(args)
    asked = {name: value for name, value in given(args).items() if value != "None"}
    if "resume" in asked and asked.get("core", default.core) != default.core:
        raise ValueError(f"Expect `core` to be {default.core}, that of the run to resume, actual: {asked['core']}")
    check_core_given(asked, default.core, default.memory)
    config = read(tyro.conf.OmitArgPrefixes[TrainSequenceConfig], args, "expirespan-train-sequence", default)
    check_data(config.data)
    return config if config.data is None else replace(config, data=config.data.absolute())


def check_data(data: Path | None) -> None:
    """Raise ValueError where a file of text is not there, can't be read or holds nothing."""
    if data is None:
        return
    if not data.is_file():
        raise ValueError(f"Expect `data` to be an existing file, actual: {data}")
    if not os.access(data, os.R_OK):
        raise ValueError(f"Expect `data` to be a file that may be read, actual: {data}")
    if not data.stat().st_size:
        raise ValueError(f"Expect `data` to be a file that holds text, actual: {data}, which is empty")


GROUPS, PATHS = ("memory", "pressure", "learning"), ("data", "out", "resume")
_HINTS = get_type_hints(TrainSequenceConfig)
VALUES = msgspec.defstruct(
    "SequenceValues",
    [
        (f.name, str | None if f.name in PATHS else _HINTS[f.name])
        for f in fields(TrainSequenceConfig)
        if f.name not in GROUPS
    ],
    forbid_unknown_fields=True,
)
"""What config.json holds of a `TrainSequenceConfig` beside its groups; paths are text there."""


def to_json(config: TrainSequenceConfig) -> str:
    """The configuration as it stands in the run folder."""
    return json.dumps({"format": FORMAT, "kind": KIND} | asdict(config), indent=2, default=str)


def from_json(text: str, path: Path = Path(CONFIGURATION)) -> TrainSequenceConfig:
    """The configuration that `to_json` wrote.  Raises ValueError, which names the path, where it is no such text."""
    with reading(f"{UNREADABLE}: {path}"):
        values = json.loads(text)
        for name, wanted in (("format", FORMAT), ("kind", KIND)):
            if (found := values.pop(name, None)) != wanted:
                raise ValueError(f"Expect the {name} {wanted!r}, actual: {found!r}")
        groups = {"memory": type(core_config(values["core"])), "pressure": PressureConfig, "learning": SequenceConfig}
        parts = {}
        for name, kind in groups.items():
            own = values.pop(name)
            check_complete(f"`{name}`", own, [f.name for f in fields(kind)])
            parts[name] = kind(**own)
        values.setdefault("workers", None)  # of before there were several processes
        plain = msgspec.structs.asdict(converted(values, VALUES))
        return TrainSequenceConfig(**plain | {name: plain[name] and Path(plain[name]) for name in PATHS}, **parts)


def read_run(run: Path) -> TrainSequenceConfig:
    """The configuration of a run folder.  Raises ValueError where it has none of this kind."""
    return from_json(read_configuration(run), run / CONFIGURATION)
