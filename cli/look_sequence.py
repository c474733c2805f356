"""What expirespan-evaluate shows of a sequence run beside its figures: recordings, pictures, changes of the memory."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..analysis import storage
from ..analysis.inspection import finite
from ..analysis.interventions import forget_steps
from ..analysis.pictures.shaded import save_shaded
from ..analysis.pictures.shaded_page import save_shaded_page
from ..analysis.pictures.timeline import save_timeline
from ..analysis.record import EpisodeTrace
from ..analysis.replacing import Passage, find_passage, parse_replacement, replace_word, replacement_lines
from ..analysis.report import memory_numbers, report_lines
from ..analysis.sequence import record_tokens, summary
from ..analysis.sequence_effects import (
    Answers,
    answers_under,
    effect_lines,
    longest_read,
    read_all,
    relevance,
    standard_effects,
)
from ..sequences.model import SequenceModel
from ..sequences.streams import Stream, Window
from ..sequences.text import split_of
from ..sequences.training import Evaluation, evaluate
from ..tab.summary import write_episode
from .config import budget_of
from .evaluate_sequence_config import EvaluateSequenceConfig
from .sequence_config import DRAWN, TrainSequenceConfig, make_episode, make_stream, task_config


class Look:
    """A run that is looked into: what is asked for, its task and its model.

    The first recording is made, and what can't be had raises ValueError, at once.  So many windows of the task are
    evaluated, None for a text as a whole.
    """

    def __init__(
        self,
        config: EvaluateSequenceConfig,
        task: TrainSequenceConfig,
        model: SequenceModel,
        updates: int,
        windows: int | None,
    ) -> None:
        self.config, self.task, self.model, self.updates, self.windows = config, task, model, updates, windows
        self.passage: Passage | None = None
        if (config.timeline or config.spans or config.record) and not os.access(config.run, os.W_OK):
            said = "a folder that may be written to, for pictures and recordings"
            raise ValueError(f"Expect `run` to be {said}, actual: {config.run}")
        if config.replace is not None:
            if task.task in DRAWN:
                raise ValueError(f"Expect `replace` with a text, actual: {config.replace!r} with {task.task}")
            split = split_of(task_config(task), config.split)
            self.passage = find_passage(split, parse_replacement(config.replace)[0], config.record_steps)
        if config.timeline or config.spans or config.record or config.memory_report:
            make_episode(task, config.split, max(config.record - 1, 0), config.record_steps)
            _ = self.first
        if config.forget and max(config.forget) > (last := longest_read(self.window)):
            said = f"steps that are read, up to {last:,} after a reset"
            raise ValueError(f"Expect `forget` to name {said}, actual: {max(config.forget)}")

    def stream(self) -> Stream:
        """The stream that is evaluated, from its beginning."""
        return make_stream(self.task, self.config.split, whole=self.windows is None)

    @cached_property
    def window(self) -> Window:
        """All that is evaluated of the stream."""
        return read_all(self.stream(), self.task.learning.segment, self.windows)

    @cached_property
    def first(self) -> EpisodeTrace:
        """The recording that all pictures show."""
        return self.recorded(0, attention=self.config.attention, frames=self.config.record > 0)

    def recorded(self, number: int, *, attention: bool, frames: bool) -> EpisodeTrace:
        """The recording of this number."""
        episode = make_episode(self.task, self.config.split, number, self.config.record_steps)
        return record_tokens(self.model, episode, attention=attention, frames=frames)

    @cached_property
    def title(self) -> str:
        """Of the pictures."""
        return f"{self.task.task}, {self.config.split}, {summary(self.first)}"

    def print_figures(self, found: Evaluation) -> dict[str, Any]:
        """Print what is kept, and the answers once the memory is changed; the same as JSON knows it.

        `found` is the evaluation of the model as it is.
        """
        config, figures = self.config, {}
        if config.memory_report:
            traces = [self.recorded(number, attention=True, frames=False) for number in range(max(config.record, 1))]
            numbers = memory_numbers(traces, budget_of(self.task.pressure))
            print("\n".join(report_lines(numbers)))
            figures["kept"] = finite(numbers)
        if effects := self._effects(found):
            print("\n".join(effect_lines(effects)))
            figures["effects"] = finite(effects)
        if config.replace is not None and self.passage is not None:
            stream, (_, new) = make_stream(self.task, config.split), parse_replacement(config.replace)
            replaced = replace_word(self.model, stream, self.passage, new)
            print("\n".join(replacement_lines(replaced)))
            figures["replaced"] = finite(replaced)
        return figures

    def _effects(self, found: Evaluation) -> dict[str, Answers]:
        """Answers as it is and under each change that is asked for; nothing where none is."""
        config, segment = self.config, self.task.learning.segment
        effects = {"as it is": Answers.of(found)}
        if config.cut_span is not None:
            effects[f"spans cut to {config.cut_span:g}"] = Answers.of(
                evaluate(self.model, self.stream(), segment, self.windows)
            )
        if config.forget or (config.memory_report and self.task.task in DRAWN):  # a text marks no step
            marked = relevance(self.stream(), self.window)
            if config.forget:
                change = forget_steps(config.forget)
                effects["chosen steps forgotten"] = answers_under(self.model, self.window, marked, change)
            if config.memory_report:
                effects |= standard_effects(self.model, self.window, marked)
        return effects if len(effects) > 1 else {}

    def files(self) -> Iterator[Path]:
        """Write the pictures and recordings asked for."""
        config, run = self.config, self.config.run
        if config.timeline:
            save_timeline(self.first, run / "timeline.png", self.title)
            yield run / "timeline.png"
        if config.spans:
            save_shaded(self.first, run / "spans.png", self.title)
            yield run / "spans.png"
            save_shaded_page(self.first, run / "spans.html", self.title, [f"{run}, {self.updates:,} updates"])
            yield run / "spans.html"
        if config.record:
            yield from self._recordings(run / "episodes")

    def _recordings(self, folder: Path) -> Iterator[Path]:
        with SummaryWriter(str(folder)) as writer:
            for number in range(self.config.record):
                trace = self.first
                if number:
                    trace = self.recorded(number, attention=self.config.attention, frames=True)
                name = f"{self.config.split}-{number}"
                storage.save(trace, folder / f"{name}.npz")
                write_episode(writer, trace, name, self.updates)
                yield folder / f"{name}.npz"
