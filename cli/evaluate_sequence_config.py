"""The options of expirespan-evaluate for a run of expirespan-train-sequence."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..analysis.replacing import parse_replacement
from ..checks import check_not_negative, check_positive, check_whole
from .arguments import check_target
from .config import MOST_THREADS


@dataclass(frozen=True, kw_only=True)
class EvaluateSequenceConfig:
    """Evaluate the model of a run folder on data that it was not trained on, with carried memory."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of expirespan-train-sequence."""
    split: Literal["train", "valid", "test"] = "test"
    """Which part of the data."""
    data: Path | None = None
    """Of a text: another file than the one trained on, or the same where it has been moved."""
    windows: int | None = None
    """Windows of the training's length to read.  None for the whole split of a text, once, and for 100 of a task that
    never ends."""
    task_args: tuple[str, ...] = ()
    """Arguments of the task, as NAME=VALUE, in place of those of training: other distances, say."""
    batch_size: int | None = None
    """Rows of the stream; None for as many as in training.  Of a text read as a whole, each row is a part of it."""
    device: str = "cpu"
    """Where the model lives: cpu or cuda."""
    threads: int = 1
    """Threads of torch on the CPU."""
    json: Path | None = None
    """Write the figures to this file."""
    sample_text: int = 0
    """Print so many bytes that the model writes after the prompt."""
    prompt: str = "The "
    """What the sampled text begins with."""
    temperature: float = 1.0
    """By which scores are divided before a byte is drawn."""
    seed: int = 0
    """Of the sampled text."""
    timeline: bool = False
    """Write RUN/timeline.png: a recorded stretch of tokens, with what each layer kept and for how long."""
    spans: bool = False
    """Write RUN/spans.html and RUN/spans.png: the text of that stretch, each token shaded by its span, for each
    layer."""
    memory_report: bool = False
    """Print what is kept of that stretch, and what becomes of the answers once the memory is changed."""
    record: int = 0
    """Record this many stretches, the first the one of the pictures, into RUN/episodes/SPLIT-NUMBER.npz and for
    TensorBoard's Memory tab."""
    record_steps: int = 2000
    """Tokens of a stretch, at most; it ends at a reset."""
    attention: bool = False
    """Record also what each step attended to."""
    cut_span: float | None = None
    """Clamp all spans to this many steps, as in the paper's own test: figures before and after, everything else
    after."""
    forget: tuple[int, ...] = ()
    """Delete what was written at these steps after a reset before a later step can see it: figures before and after,
    read step by step."""
    replace: str | None = None
    """Of a text, as OLD=NEW: replace the first OLD by NEW, and print what is kept of either and what that changes."""

    def __post_init__(self) -> None:
        for name in ("windows", "batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), at_least=1)
        check_whole("threads", self.threads, at_least=1, at_most=MOST_THREADS)
        for name in ("sample_text", "record"):
            check_whole(name, getattr(self, name), at_least=0)
        check_whole("record_steps", self.record_steps, at_least=1)
        check_whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        check_positive("temperature", self.temperature)
        if not self.prompt:
            raise ValueError("Expect `prompt` to hold at least one byte, actual: none")
        check_whole("forget", min(self.forget, default=0), at_least=0)
        if self.cut_span is not None:
            check_not_negative("cut_span", self.cut_span)
        if self.replace is not None:
            parse_replacement(self.replace)
        if self.json is not None:
            check_target("json", self.json)
        self._check_sample()
        if self.attention and not self.record:
            raise ValueError("Expect `attention` to come with `record`, actual: record 0")

    def _check_sample(self) -> None:
        """Raise ValueError for an option that a sampled text makes no use of, or that nothing else does."""
        alone = ("prompt", "temperature", "seed")
        used = ("run", "device", "threads", "sample_text", "cut_span", *alone)
        for option in fields(self):
            if option.name == "run" or (value := getattr(self, option.name)) == option.default:
                continue
            if self.sample_text and option.name not in used:
                raise ValueError(f"Expect `{option.name}` not to be given beside `sample_text`, actual: {value}")
            if not self.sample_text and option.name in alone:
                raise ValueError(f"Expect `{option.name}` to come with `sample_text`, actual: {value} alone")
