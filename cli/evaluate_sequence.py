"""expirespan-evaluate for a run of expirespan-train-sequence: what its model makes of data not trained on."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from ..checks import check_positive, check_whole
from ..sequences.checkpoint import restore_weights
from ..sequences.model import SequenceModel
from ..sequences.training import Evaluation, evaluate, make_model
from .arguments import read
from .config import MOST_THREADS
from .run_folder import CONFIGURATION
from .sequence_config import CHECKPOINT, DRAWN, KIND, TrainSequenceConfig, make_stream, read_run

DRAWN_WINDOWS = 100
"""Windows of an evaluation on a task that never ends."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSequenceConfig:
    """Evaluate the model of a run folder on data that it was not trained on, with carried memory."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of expirespan-train-sequence."""
    split: Literal["train", "valid", "test"] = "test"
    """Which part of the data."""
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

    def __post_init__(self) -> None:
        for name in ("windows", "batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), at_least=1)
        check_whole("threads", self.threads, at_least=1, at_most=MOST_THREADS)
        check_whole("sample_text", self.sample_text, at_least=0)
        check_whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        check_positive("temperature", self.temperature)
        if not self.prompt:
            raise ValueError("Expect `prompt` to hold at least one byte, actual: none")


def is_sequence_run(args: list[str]) -> bool:
    """Whether one of these arguments is a run folder of expirespan-train-sequence."""
    for word in args:
        file = Path(word) / CONFIGURATION
        if not word.startswith("-") and file.is_file():
            try:
                return json.loads(file.read_text()).get("kind") == KIND
            except (ValueError, AttributeError):
                return False
    return False


def load(run: Path, config: TrainSequenceConfig, device: str) -> SequenceModel:
    """The model of a run folder.  Raises FileNotFoundError where it has no checkpoint yet."""
    stream = make_stream(config, "valid")
    model = make_model(config.memory, stream.vocabulary, stream.classes, config.learning)
    restore_weights(run / CHECKPOINT, model)
    return model.to(device).eval()


@torch.no_grad()
def sample(model: SequenceModel, prompt: bytes, count: int, temperature: float) -> bytes:
    """Bytes that the model writes after a prompt, one by one; by torch's generator."""
    state, written = model.core.initial_state(1), bytearray()
    reset, device = torch.ones(1, 1, dtype=torch.bool), model.head.weight.device
    tokens = list(prompt)
    for step in range(len(prompt) + count - 1):
        token = torch.tensor([[tokens[step]]], device=device)
        scores, output = model(token, state, (reset if not step else ~reset).to(device))
        state = output.state
        if step >= len(prompt) - 1:
            shares = torch.softmax(scores[0, 0].float() / temperature, 0)
            tokens.append(int(torch.multinomial(shares, 1)))
            written.append(tokens[-1])
    return bytes(written)


def lines(found: Evaluation, text: bool, seconds: float, steps: int) -> Iterator[str]:
    """What was found, for people."""
    yield f"  {found.scored:,} scored steps, {steps / seconds:,.0f} steps a second"
    yield f"  {found.bits:.4f} bits per {'character' if text else 'answer'}"
    yield f"  error {found.error:.2%}"
    for number, live in enumerate(found.live, 1):
        yield f"  layer {number}: {live:.1f} live memories"


def evaluate_run(args: list[str], check_device: Any) -> None:
    """The command line of expirespan-evaluate for these runs.  Raises ValueError for what can't be done."""
    config = read(EvaluateSequenceConfig, args, "expirespan-evaluate")
    check_device(config.device)
    torch.set_num_threads(config.threads)
    trained = read_run(config.run)
    model = load(config.run, trained, config.device)
    text = trained.task not in DRAWN
    if config.sample_text:
        if not text:
            raise ValueError(f"Expect `sample_text` to be 0 for a task other than text, actual: {config.sample_text}")
        torch.manual_seed(config.seed)
        written = sample(model, config.prompt.encode(), config.sample_text, config.temperature)
        print(config.prompt + written.decode(errors="replace"))
        return
    learning = replace(trained.learning, batch_size=config.batch_size or trained.learning.batch_size)
    asked = replace(trained, learning=learning, task_args=config.task_args or trained.task_args)
    whole = text and config.windows is None
    stream = make_stream(asked, config.split, whole=whole)
    if stream.vocabulary != model.embedding.num_embeddings or stream.classes != model.head.out_features:
        said = f"a task of {model.embedding.num_embeddings} tokens and {model.head.out_features} classes"
        raise ValueError(f"Expect `task_args` of {said}, actual: {stream.vocabulary} and {stream.classes}")
    begun, segment = time.perf_counter(), trained.learning.segment
    found = evaluate(model, stream, segment, None if whole else config.windows or DRAWN_WINDOWS)
    seconds = time.perf_counter() - begun
    print(f"{config.run}, {config.split}:")
    print(*lines(found, text, seconds, found.steps), sep="\n")
    if config.json is not None:
        figures = asdict(found) | {"bits": found.bits, "split": config.split, "run": str(config.run)}
        config.json.write_text(json.dumps(figures, indent=2))
