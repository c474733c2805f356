"""Sequence models looked into: recordings, pictures, the report, changes of memory and words, the command line."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expirespan import train_sequence
from expirespan.analysis import sequence, storage
from expirespan.analysis.interventions import cut_spans, forget_steps
from expirespan.analysis.pictures.shaded import Scale, draw_shaded, lay_out
from expirespan.analysis.pictures.shaded_page import shaded_page
from expirespan.analysis.replacing import find_passage, parse_replacement, replace_word
from expirespan.analysis.sequence import record_tokens, summary
from expirespan.analysis.sequence_effects import answers_under, read_all, relevance, standard_effects
from expirespan.cli.sequence_config import read_run
from expirespan.evaluate import main as evaluate_main
from expirespan.memory import ExpireSpan, core_config
from expirespan.sequences import AssociativeRecall, AssociativeRecallConfig, Text, TextConfig
from expirespan.sequences.episode import read_episode
from expirespan.sequences.model import SequenceModel
from expirespan.sequences.training import evaluate
from expirespan.tab import token_recording
from recordings import made_up
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RECALL = AssociativeRecallConfig(pairs=3, steps=41, keys=5, values=7, fillers=2)
OPTIONS = (
    "--width 16 --ff-width 16 --max-span 50 --ramp 4 --memory-budget 10 --segment 16 --batch-size 4 --updates 4 "
    "--evaluate-every 0 --timeline-steps 60"
)
SHAPES: dict[str, dict[str, Any]] = {
    "expire-span": {"width": 16, "ff_width": 16, "max_span": 30.0, "ramp": 3.0, "capacity": 9},
    "transformer-xl": {"width": 16, "ff_width": 16, "window": 7},
    "compressive": {"width": 16, "ff_width": 16},
}


def recall(rows: int = 1) -> AssociativeRecall:
    return AssociativeRecall(RECALL, batch_size=rows, seed=3)


def model_of(stream: Any, core: str = "expire-span") -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(core_config(core, SHAPES.get(core, {"width": 16})), stream.vocabulary, stream.classes)
    if isinstance(model.core, ExpireSpan) and core == "expire-span":
        for layer in model.core.stack():
            torch.nn.init.normal_(layer.span.weight, std=0.5)
    return model.train()


@pytest.mark.parametrize("core", SHAPES)
def test_a_recording_is_the_same_however_the_tokens_are_read(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for steps in (1, 5, 128):
        monkeypatch.setattr(sequence, "READ", steps)
        trace = record_tokens(model_of(recall(), core), read_episode(recall(), 100), attention=True)
        found.append(storage.to_arrays(trace))
    assert len(found[0]["actions"]) == 41
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, array in found[0].items():
            if array.dtype.kind == "f" and "attention" not in name:
                np.testing.assert_allclose(array, other[name], rtol=1e-4, err_msg=name)
            elif "attention" not in name:  # weights at the limit of what is recorded may fall to either side
                np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_recording_holds_answers_surprise_and_what_tokens_are() -> None:
    model, episode = model_of(recall()), read_episode(recall(), 100)
    trace = record_tokens(model, episode)
    assert model.training
    found = evaluate(model, recall(), 41, 1)
    assert np.isfinite(trace.values).sum() == found.scored == 3
    assert np.nanmean(trace.values) == pytest.approx(found.bits, rel=1e-5)
    assert trace.rewards.sum() == round(3 * (1 - found.error))
    assert [layer.live.mean() for layer in trace.layers] == pytest.approx(found.live, rel=1e-5)
    assert trace.relevant.sum() == 6 and trace.value_name == "surprise in bits" and trace.episode_end == "terminated"
    assert trace.labels is not None and trace.labels[0].endswith(" ")
    read = storage.from_bytes(storage.to_bytes(trace))
    assert read.labels is not None and (read.labels == trace.labels).all() and read.value_name == trace.value_name
    assert summary(trace) == f"41 steps, {found.bits:.3f} bits, {found.error:.1%} wrong"
    assert summary(record_tokens(model, read_episode(recall(), 5))) == "5 steps, none scored"


def test_a_core_without_single_memories_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memories of single steps, .* to record an episode, actual: lstm"):
        record_tokens(model_of(recall(), "lstm"), read_episode(recall(), 100))


def test_nothing_changed_is_what_evaluation_finds_and_forgotten_steps_are_not_seen() -> None:
    model, window = model_of(recall(3)), read_all(recall(3), 41, 2)
    marked = relevance(recall(3), window)
    found = evaluate(model, recall(3), 41, 2)
    same = answers_under(model, window, marked, lambda state, _: state)
    assert (same.bits, same.error) == pytest.approx((found.bits, found.error), rel=1e-4)
    # Every stored memory forgotten is a memory of a single step.
    blind = answers_under(model, window, marked, forget_steps(range(41)))
    none = evaluate(cut_spans(model, 0.0), recall(3), 41, 2)
    assert blind.bits != pytest.approx(same.bits, rel=1e-4) and none.bits != pytest.approx(same.bits, rel=1e-4)
    effects = standard_effects(model, window, marked)
    assert list(effects) == [
        "relevant steps forgotten",
        "as many others forgotten",
        "all other steps forgotten",
        "relevant steps swapped",
    ]
    assert not standard_effects(model, window, np.zeros_like(marked))
    with pytest.raises(ValueError, match=r"memories can be edited one by one, .* actual: gru"):
        answers_under(model_of(recall(), "gru"), window, marked, forget_steps([0]))


def text_of(tmp_path: Path, words: bytes) -> tuple[Text, np.ndarray]:
    (tmp_path / "text").write_bytes(words)
    config = TextConfig(path=str(tmp_path / "text"), shares=(1.0, 0.0, 0.0))
    return Text(config, batch_size=1), np.frombuffer(words, np.uint8)


def test_a_word_is_replaced_and_what_follows_compared(tmp_path: Path) -> None:
    words = b"one two three " * 3 + b"Egypt is far. four five six Egypt again"
    stream, split = text_of(tmp_path, words)
    model, passage = model_of(stream), find_passage(split, b"Egypt", 60)
    assert (passage.place, passage.before, passage.after) == (42, words[27:42], words[47:88])
    found = replace_word(model, stream, passage, b"it")
    assert (found.place, found.after, found.again) == (42, 34, 1)
    whole = Text(stream.config, batch_size=1, whole=True)
    trace = record_tokens(model, read_episode(whole, 60, 27))
    assert found.original.span == pytest.approx([float(layer.span[15:20].max()) for layer in trace.layers])
    assert found.original.bits_after == pytest.approx(float(trace.values[19:].mean()), rel=1e-4)
    again = words[27:].index(b"Egypt again")
    assert found.original.bits_again == pytest.approx(float(trace.values[again - 1 : again + 4].mean()), rel=1e-4)
    assert found.replaced.word == "it" and found.replaced.bits_after != found.original.bits_after
    once = replace_word(model, stream, find_passage(split, b"far", 60), b"near")
    assert once.again == 0 and math.isnan(once.original.bits_again)


@pytest.mark.parametrize("text", ["Egypt", "=x", "x=", "same=same"])
def test_two_different_words_are_asked_for(text: str) -> None:
    with pytest.raises(ValueError, match=f"`replace` to be two different words as OLD=NEW, actual: '{text}'"):
        parse_replacement(text)


def test_a_word_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    _, split = text_of(tmp_path, b"the end of Egypt")
    for word, steps, message in (
        (b"Rome", 9, "`replace` to name a word of the text, actual: 'Rome', which is not in it"),
        (b"Egypt", 9, "'Egypt', which is not in it"),  # nothing follows
        (b"end", 3, "`record_steps` to be at least 3 to read on after 'end', actual: 2"),
    ):
        with pytest.raises(ValueError, match=message):
            find_passage(split, word, steps - (word == b"end"))


def test_shades_are_logarithmic_between_the_shortest_and_the_longest_span() -> None:
    scale = Scale(9.0, 999.0)
    assert [scale.shade(span) for span in (0.0, 9.0, 99.0, 999.0, 5e3, math.nan)] == pytest.approx([0, 0, 0.5, 1, 1, 0])
    assert scale.ticks == [9, 100, 999] and Scale(5.0, 5.0).shade(5.0) == 0


def test_lines_are_broken_at_newlines_and_where_they_are_full() -> None:
    labels = ["a", "\n", "b", *["k12 "] * 26]
    placed = list(lay_out(labels))
    assert placed[:3] == [(0, 0, "a"), (0, 1, "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"), (1, 0, "b")]
    assert placed[3:5] == [(1, 1, "k12 "), (1, 5, "k12 ")] and placed[-2:] == [(1, 97, "k12 "), (2, 0, "k12 ")]


def test_a_space_at_the_end_of_a_full_line_begins_the_next() -> None:
    placed = list(lay_out([*"x" * 100, " ", "x"]))
    assert [place[:2] for place in placed[-3:]] == [(0, 99), (1, 0), (1, 1)]


def test_pictures_show_the_text_and_the_page_runs_nothing() -> None:
    trace = made_up(31, 2)
    with pytest.raises(ValueError, match="`trace` to be recorded from tokens, with labels, actual: without"):
        draw_shaded(trace)
    labels = np.array([*"<script>alert(1)</script>\n", "", "é", "&", '"', " "])
    tokens = replace(trace, labels=labels)
    page = shaded_page(tokens, "<b>title</b>", ["a < b"])
    assert "<script" not in page and "<img" not in page and "<b>" not in page and "a &lt; b" in page
    assert page.count(">&lt;</span>") == 4 and page.count("&#8629;</span>\n</span>") == 2  # in both layers
    assert page.count(">é</span>") == 2 and "step 27, span" in page and "step 26, span" not in page
    assert draw_shaded(tokens, "title").size[0] == 940


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Path]:
    def train(options: str) -> Path:
        train_sequence.main([*f"{options} {OPTIONS}".split(), "--out", str(tmp_path / "run")])
        return tmp_path / "run"

    return train


def recorded(folder: Path) -> list[str]:
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    return sorted(tag for tag in [*tags["tensors"], *tags["images"]] if tag.startswith(("memory/episode", "timeline")))


COPY = "--task copy --task-args length=2 distractors=9 symbols=4"


def test_tokens_are_recorded_while_training_and_at_its_end(run: Callable[[str], Path]) -> None:
    folder = run(f"{COPY} --timeline-every 3")
    pictures = ["timeline/memories", "timeline/spans"]
    assert recorded(folder) == ["memory/episode/valid-0/3", "memory/episode/valid-0/4", *pictures]
    train_sequence.main(["--resume", str(folder), "--updates", "5", "--timeline-every", "0"])
    assert "memory/episode/valid-0/5" not in recorded(folder)


def test_a_recording_that_fails_ends_no_training(run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(token_recording, "write_episode", full)
    with pytest.warns(UserWarning, match="Nothing more is recorded, training goes on: OSError: no space left") as said:
        folder = run(f"{COPY} --timeline-every 1")
    assert len(said) == 1 and read_run(folder).updates == 4


def test_a_run_is_looked_into(run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(f"{COPY} --timeline-every 0")
    asked = "--memory-report --spans --timeline --record 2 --attention --cut-span 3 --forget 0 1 --windows 3"
    evaluate_main([str(folder), *asked.split(), "--json", str(tmp_path / "f.json")])
    printed = capsys.readouterr().out
    for words in (
        "memory over 2 episodes",
        "lifetime of to copy",
        "as it is",
        "spans cut to 3",
        "chosen steps forgotten",
    ):
        assert words in printed
    assert "relevant steps swapped" in printed
    for name in ("spans.png", "spans.html", "timeline.png", "episodes/test-0.npz", "episodes/test-1.npz"):
        assert (folder / name).is_file() and f"wrote {folder / name}" in printed
    trace, other = (storage.load(folder / f"episodes/test-{number}.npz") for number in range(2))
    assert len(trace.actions) == 13 and max(layer.live.max() for layer in trace.layers) <= 3 + 4
    assert trace.layers[0].attention is not None and (trace.labels != other.labels).any()
    assert recorded(folder / "episodes") == ["memory/episode/test-0/4", "memory/episode/test-1/4"]
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["kept"]["episodes"] == 2 and figures["effects"]["as it is"]["bits"] == figures["bits"]


def test_a_word_of_a_text_is_replaced(
    run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_bytes(b"the quick brown fox jumps over the lazy dog. " * 200)
    folder = run(f"--task text --data {tmp_path / 'text'} --timeline-every 4")
    evaluate_main([str(folder), "--replace", "quick=slow", "--record-steps", "90", "--memory-report"])
    printed = capsys.readouterr().out
    assert (
        "'quick' at byte" in printed and "bits a byte of 'quick' again" in printed and "memory changed" not in printed
    )
    for options, message in (
        ("--replace zebra=horse", "a word of the text, actual: 'zebra', which is not in it"),
        ("--replace zebra", "two different words as OLD=NEW, actual: 'zebra'"),
        ("--record 3 --record-steps 300", "begins within the data, actual: one after 600 steps"),
        ("--attention", "`attention` to come with `record`, actual: record 0"),
        ("--cut-span -1", "`cut_span` to be at least 0, actual: -1"),
        ("--forget -1", "`forget` to be at least 0, actual: -1"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate_main([str(folder), *options.split()])
        assert not capsys.readouterr().out


def test_what_a_core_cannot_show_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    train_sequence.main([*f"{COPY} --core lstm --width 16 --updates 2 --evaluate-every 0".split(), "--out", folder])
    capsys.readouterr()
    for options, message in (
        ("--spans", "memories of single steps, such as expire-span, for `spans`, actual: lstm"),
        ("--record 1", "for `record`, actual: lstm"),
        ("--memory-report", "for `memory_report`, actual: lstm"),
        ("--forget 1", "memories can be edited one by one, such as expire-span, actual: lstm"),
        ("--cut-span 3", "spans can be cut, such as expire-span, actual: lstm"),
        ("--replace a=b", "for `replace`, actual: lstm"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate_main([folder, *options.split()])
        assert not capsys.readouterr().out
