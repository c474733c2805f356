"""expirespan-evaluate for a run of expirespan-train-sequence: what its model makes of data not trained on."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..agents.checkpoint.schema import reading
from ..analysis.evaluation import check_keeps_memories
from ..analysis.interventions import check_editable, cut_spans
from ..sequences.checkpoint import restore_weights
from ..sequences.model import SequenceModel
from ..sequences.streams import Stream
from ..sequences.text import Text
from ..sequences.training import Evaluation, evaluate, make_model
from .arguments import read, within_memory
from .evaluate_sequence_config import EvaluateSequenceConfig
from .look_sequence import Look
from .run_folder import CONFIGURATION, UNREADABLE, read_configuration
from .sequence_config import CHECKPOINT, DRAWN, KIND, TrainSequenceConfig, check_data, make_stream, read_run, sizes

DRAWN_WINDOWS = 100
"""Windows of an evaluation on a task that never ends."""


def is_sequence_run(args: list[str]) -> bool:
    """Whether the first of these arguments that is a run folder is one of expirespan-train-sequence.

    Which options there are goes by it.  So ValueError is raised here where its configuration can't be read, and where
    the arguments begin with another folder.
    """
    runs = [Path(word) for word in args if not word.startswith("-") and (Path(word) / CONFIGURATION).is_file()]
    if not runs and args and Path(args[0]).is_dir():
        runs = [Path(args[0])]
    for run in runs[:1]:
        text = read_configuration(run)
        with reading(f"{UNREADABLE}: {run / CONFIGURATION}"):
            document = json.loads(text)
        return isinstance(document, dict) and document.get("kind") == KIND
    return False


def load(run: Path, config: TrainSequenceConfig, device: str) -> tuple[SequenceModel, int, dict[str, np.ndarray]]:
    """The model of a run folder, the updates it has had, and where its stream stood.

    Raises FileNotFoundError where there is none yet.
    """
    task = make_stream(config, "valid") if config.task in DRAWN else Text
    model = make_model(config.memory, task.vocabulary, task.classes, config.learning)
    updates, stood = restore_weights(run / CHECKPOINT, model)
    return model.to(device).eval(), updates, stood


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
            chances = scores[0, 0].double()
            shares = torch.softmax((chances - chances.max()) / temperature, 0)
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
    learning = replace(trained.learning, batch_size=config.batch_size or trained.learning.batch_size)
    asked = replace(trained, learning=learning, task_args=config.task_args or trained.task_args)
    asked = replace(asked, data=config.data or trained.data)
    with within_memory(sizes(asked) | {"timeline_steps": 0, "record_steps": config.record_steps}):
        model, updates, stood = load(config.run, trained, config.device)
        if config.sample_text:
            write_text(config, trained, model)
        else:
            evaluate_model(config, asked, model, updates, stood)


def write_text(config: EvaluateSequenceConfig, trained: TrainSequenceConfig, model: SequenceModel) -> None:
    """Print what a model of text writes after a prompt.  Raises ValueError for a model of something else."""
    if trained.task in DRAWN:
        raise ValueError(f"Expect `sample_text` to be 0 for a task other than text, actual: {config.sample_text}")
    torch.manual_seed(config.seed)
    if config.cut_span is not None:
        model = cut_spans(model, config.cut_span)
    prompt = os.fsencode(config.prompt)
    written = sample(model, prompt, config.sample_text, config.temperature)
    print((prompt + written).decode(errors="replace"))


def evaluate_model(
    config: EvaluateSequenceConfig,
    asked: TrainSequenceConfig,
    model: SequenceModel,
    updates: int,
    stood: dict[str, np.ndarray],
) -> None:
    """Print the figures of a model on the task asked for, and write what is asked for beside them.

    `updates` and `stood` are those of its training, and of its stream.
    """
    text = asked.task not in DRAWN
    check_data(asked.data)
    whole = text and config.windows is None
    stream = make_stream(asked, config.split, whole=whole)
    check_same_task(model, stream)
    if isinstance(stream, Text) and config.data is None:
        stream.check_content(stood)
    check_core(config, model)
    windows = None if whole else config.windows or DRAWN_WINDOWS
    changed = model if config.cut_span is None else cut_spans(model, config.cut_span)
    look = Look(config, asked, changed, updates, windows)
    begun = time.perf_counter()
    found = evaluate(model, stream, asked.learning.segment, windows)
    seconds = time.perf_counter() - begun
    if not found.scored:
        said = "at which no step is scored"
        raise ValueError(f"Expect `windows` to reach a scored step, actual: {found.steps:,} steps {said}")
    print(f"{config.run}, {config.split}:")
    print(*lines(found, text, seconds, found.steps), sep="\n")
    figures = asdict(found) | {"bits": found.bits, "split": config.split, "run": str(config.run)}
    figures |= look.print_figures(found)
    if config.json is not None:
        config.json.write_text(json.dumps(figures, indent=2))
    for path in look.files():
        print(f"wrote {path}")


def check_same_task(model: SequenceModel, stream: Stream) -> None:
    """Raise ValueError where a stream has other tokens or classes than the model."""
    if stream.vocabulary != model.embedding.num_embeddings or stream.classes != model.head.out_features:
        said = f"a task of {model.embedding.num_embeddings} tokens and {model.head.out_features} classes"
        raise ValueError(f"Expect `task_args` of {said}, actual: {stream.vocabulary} and {stream.classes}")


def check_core(config: EvaluateSequenceConfig, model: SequenceModel) -> None:
    """Raise ValueError where what is asked for can't be had of the model's core."""
    for option in ("timeline", "spans", "memory_report", "record", "replace"):
        if getattr(config, option):
            check_keeps_memories(model, f"for `{option}`")
    if config.forget or config.memory_report:
        check_editable(model)
