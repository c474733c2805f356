"""Train a sequence model with memory from the command line, into a run folder that can be resumed and watched."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from expirespan import processes
from expirespan.agents.checkpoint.file import replace_file
from expirespan.cli.arguments import options, within_memory
from expirespan.cli.run_folder import CONFIGURATION, agreed, check_new, command, in_use, known, on_signals
from expirespan.cli.sequence_config import (
    CHECKPOINT,
    TrainSequenceConfig,
    make_episode,
    make_stream,
    parse,
    read_run,
    sizes,
    to_json,
)
from expirespan.cli.workers import check_rows, leave_one, run_workers, tell
from expirespan.sequences.checkpoint import read, restore, write
from expirespan.sequences.training import Evaluation, Evaluator, SequenceTrainer, make_model
from expirespan.tab.token_recording import RecordTokens
from expirespan.train_agent import check_device
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

ANEW = ("updates", "learning_rate", "device", "data", "workers", "timeline_every")
"""Options that may change when a run is resumed."""


def resumed(asked: TrainSequenceConfig, run: Path) -> TrainSequenceConfig:
    """The configuration with which a run folder goes on.

    Raises ValueError where more than `ANEW` is not as in its own.
    """
    stored = options(read_run(run)) | {"resume": run}
    if extra := [name for name, value in options(asked).items() if name not in ANEW and stored.get(name) != value]:
        said = f"no other options than {', '.join(ANEW[:-1])} and {ANEW[-1]}"
        raise ValueError(f"Expect `resume` with {said}, actual: {', '.join(extra)}")
    return replace(asked, resume=None)


class Events:
    """TensorBoard's events, of the first process; training goes on where they can't be written, which is said once."""

    def __init__(self, run: Path, updates: int | None) -> None:
        self._failed = processes.rank() > 0
        if not self._failed:
            self.writer = SummaryWriter(str(run), purge_step=None if updates is None else updates + 1)

    def write(self, figures: dict[str, float], updates: int) -> None:
        """Write figures by their tags."""
        if self._failed:
            return
        try:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, updates)
            self.writer.flush()
        except OSError as error:
            self._failed = True
            said = "training goes on, its curves end here"
            print(f"TensorBoard's events can't be written at {updates:,} updates, {said}: {error}", file=sys.stderr)


class Training:
    """A run: its trainer, its evaluator, and what asks it to stop."""

    def __init__(self, config: TrainSequenceConfig, run: Path) -> None:
        self.config, self.run = config, run
        torch.manual_seed(config.seed + processes.rank())
        stream, learning = make_stream(config, "train"), config.learning
        model = make_model(config.memory, stream.vocabulary, stream.classes, learning)
        model.core.check_settings(config.pressure)
        self.trainer = SequenceTrainer(
            model.to(processes.own_device(config.device or "cpu")), stream, learning, config.pressure, config.updates
        )
        self.evaluator = Evaluator(self.trainer.model, make_stream(config, "valid"), learning.segment)
        self.recording: RecordTokens | None = None
        if config.timeline_every and model.core.keeps_memories and not processes.rank():
            self.recording = RecordTokens(make_episode(config, "valid", 0, config.timeline_steps), "valid-0")
        self.stop = processes.Stop()
        self.evaluated: Evaluation | None = None
        if (run / CHECKPOINT).exists():
            restore(run / CHECKPOINT, self.trainer, self.evaluator)

    def save(self) -> None:
        """Write a checkpoint, which all processes do together."""
        write(self.run / CHECKPOINT, self.trainer, self.evaluator)

    def learn(self, events: Events) -> None:
        """Train what is left, or until a signal, and save."""
        config, trainer = self.config, self.trainer
        per_update = config.learning.segment * config.learning.batch_size * config.learning.accumulate
        how = {"unit": "update", "dynamic_ncols": True, "disable": processes.rank() > 0}
        with tqdm(total=config.updates, initial=trainer.updates, **how) as bar:
            begun, first = time.perf_counter(), trainer.updates
            while trainer.updates < config.updates and not self.stop.agree():
                trainer.update()
                bar.update()
                done = trainer.updates
                if done % config.log_every == 0:
                    figures = trainer.take_figures()
                    speed = (done - first) * per_update / (time.perf_counter() - begun)
                    bar.set_postfix(shown(config, figures, speed, trainer), refresh=False)
                    events.write(figures, done)
                if config.evaluate_every and done % config.evaluate_every == 0:
                    self.evaluated = self.evaluator.read(config.evaluate_windows)
                    events.write(named(self.evaluated), done)
                if config.timeline_every and done % config.timeline_every == 0 and self.recording is not None:
                    self.recording.write(trainer.model, events.writer, done)
                if done % config.checkpoint_every == 0:
                    self.save()
        self.save()
        if self.recording is not None and self.stop.signal is None:
            self.recording.write(trainer.model, events.writer, trainer.updates)


def named(found: Evaluation) -> dict[str, float]:
    """An evaluation's figures by their tags; of the answers none where nothing was scored."""
    lives = {f"eval/live_layer_{number}": live for number, live in enumerate(found.live, 1)}
    return ({"eval/bits": found.bits, "eval/error": found.error} if found.scored else {}) | lives


def shown(config: TrainSequenceConfig, figures: dict[str, float], speed: float, trainer: Any) -> dict[str, str]:
    """What stands beside the progress bar."""
    said = {"tokens/s": f"{speed:,.0f}", "bits": f"{figures.get('train/loss', math.nan) / math.log(2):.3f}"}
    if config.task != "text":
        said["error"] = f"{figures.get('train/error', math.nan):.1%}"
    lives = [value for name, value in figures.items() if name.startswith("memory/live_layer_")]
    if lives:
        budget = None if trainer.controller is None else trainer.controller.budget
        said["live"] = "/".join(f"{live:.0f}" for live in lives) + (f" of {budget:g}" if budget else "")
    return said


def train(config: TrainSequenceConfig) -> int | None:
    """Train, or go on training; the number of the signal that stopped it, None at its end.

    Raises ValueError, before any training, where this configuration can't be trained, or where another process trains
    in the folder; in the first update, too, where there is no memory for it.
    """
    if (resume := config.resume) is not None:
        config = resumed(config, resume)
    earlier, first = known(resume, config.out), processes.rank() == 0
    run = earlier or agreed(partial(new_folder, config))
    if processes.launched():
        config = replace(config, workers=processes.count())
    check_device("cpu" if config.device is None else config.device)
    torch.set_num_threads(config.threads)
    with ExitStack() as held, within_memory(sizes(config)):
        if earlier and first:
            held.enter_context(in_use(run))
        training = Training(config, run)
        if training.trainer.updates >= config.updates:
            tell(f"{run} has already trained for {training.trainer.updates:,} updates; ask for more with --updates")
            return None
        if earlier and not training.trainer.updates:
            tell(f"{run} holds no checkpoint: training begins anew, at update 0")
        if first:
            if not earlier:
                held.enter_context(in_use(run))
            replace_file(run / CONFIGURATION, lambda path: path.write_text(to_json(config)))
        events = Events(run, training.trainer.updates if earlier else None)
        with on_signals(training.stop.interrupt), telling_how_to_go_on(run):
            processes.gathered(None)  # from now on a signal to any of them is heard by all
            tell(f"Training into {run}; watch it with: {command('tensorboard')} --logdir {quote(str(run))}")
            training.learn(events)
    stopped = training.stop.signal if training.trainer.updates < config.updates else None
    if first:
        print(*closing_lines(run, training, stopped is not None), sep="\n")
    return stopped


def new_folder(config: TrainSequenceConfig) -> Path:
    """The folder of a new run.  Raises ValueError where it holds anything."""
    return check_new(config.out or Path("runs") / f"{config.task}-{datetime.now():%Y%m%d-%H%M%S}")


def train_in_workers(config: TrainSequenceConfig, args: list[str], workers: int) -> None:
    """Train in several processes on this machine.  Raises ValueError where what is asked for can't be shared out."""
    check_rows("batch_size", config.learning.batch_size, workers)
    if (run := config.resume) is None:
        run = new_folder(config)
        args = [*args, "--out", str(run)]
    run_workers("expirespan-train-sequence", "expirespan.train_sequence", args, workers, run, how_to_go_on)


def how_to_go_on(run: Path) -> str:
    """What of an interrupted training is saved, and the command that goes on from there."""
    saved = "There is no checkpoint yet"
    if (run / CHECKPOINT).is_file():
        saved = f"Its checkpoint is of {read(run / CHECKPOINT)[1].updates:,} updates"
    return f"{saved}; go on with: {command('expirespan-train-sequence')} --resume {quote(str(run))}"


@contextmanager
def telling_how_to_go_on(run: Path) -> Iterator[None]:
    """Let an error in training say what is saved and how to go on from there."""
    try:
        yield
    except (Exception, KeyboardInterrupt):  # the second Ctrl-C
        tell(f"Training stopped. {how_to_go_on(run)}", file=sys.stderr)
        raise


def closing_lines(run: Path, training: Training, stopped: bool) -> Iterator[str]:
    """Where training stands and what can be done next."""
    updates, folder = training.trainer.updates, quote(str(run))
    again_by = command("expirespan-train-sequence")
    if stopped:
        yield f"Stopped and saved at {updates:,} updates; go on with: {again_by} --resume {folder}"
        return
    yield f"Trained for {updates:,} updates"
    if (found := training.evaluated) is not None:
        lives = ", ".join(f"{live:.0f}" for live in found.live)
        answers = f"{found.bits:.3f} bits, error {found.error:.1%} of {found.scored:,} scored steps"
        if not found.scored:
            answers = "no step was scored in the last evaluation: a larger evaluate_windows would reach one"
        yield f"  {answers}" + (f", live memories {lives}" if lives else "")
    yield "Next:"
    if training.recording is not None:
        evaluate = command("expirespan-evaluate")
        yield f"  {evaluate} {folder} --memory-report --spans   # how it answers and what it keeps"
        yield f"  {command('tensorboard')} --logdir {folder}   # curves, and the Memory tab with recorded tokens"
    else:
        yield f"  {command('tensorboard')} --logdir {folder}"
    yield f"  {again_by} --resume {folder} --updates {2 * updates}   # as many again"


def main(args: list[str] | None = None) -> None:
    """The command line: parse, train, and turn errors about arguments into one line.

    Exits with 128 and the number of the signal where one stopped the training, which is saved; with 130 for a Ctrl-C
    before it begins.
    """
    asked = sys.argv[1:] if args is None else args
    try:
        config = parse(asked)
        if (config.workers or 1) > 1 and not processes.launched():
            train_in_workers(config, asked, config.workers or 1)
            return
        with processes.joined_by_torchrun():
            stopped = train(config)
    except KeyboardInterrupt:
        print("expirespan-train-sequence: interrupted", file=sys.stderr)
        sys.exit(130)
    except processes.OthersEnded:  # whoever started them says which
        sys.exit(1)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        leave_one("expirespan-train-sequence", error)
    else:
        processes.leave(0 if stopped is None else 128 + stopped)
        if stopped is not None:
            sys.exit(128 + stopped)


if __name__ == "__main__":
    main()
