"""The memory report: its numbers by hand, its lines, and the pictures that go with it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expirespan import evaluate
from expirespan.analysis.pictures.curves import draw_curves, read_curves, save_curves
from expirespan.analysis.pictures.filmstrip import draw_filmstrip, save_filmstrip
from expirespan.analysis.pictures.timeline import draw_timeline
from expirespan.analysis.record import AttentionRecord, EpisodeTrace, LayerRecord
from expirespan.analysis.report import comparison_lines, foremost, layer_numbers, memory_numbers, report_lines
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from test_memory_numbers import STEPS, episode, first_layer
from test_scripts import ROLLOUT, SMALL, train
from torch.utils.tensorboard import SummaryWriter


def recorded() -> EpisodeTrace:
    """Two layers with attention; the second keeps everything and looks at nothing but itself."""
    trace = episode()
    own = np.arange(STEPS, dtype=np.int32)
    looking = AttentionRecord(query=own, memory=own, weight=np.ones(STEPS, dtype=np.float32))
    second = replace(trace.layers[1], deleted=np.full(STEPS, STEPS), live=np.arange(1, STEPS + 1), attention=looking)
    return replace(trace, layers=(trace.layers[0], second))


def test_numbers_of_a_layer() -> None:
    numbers = layer_numbers(first_layer(), recorded().relevant, 1)
    assert numbers.live == pytest.approx(18 / 7) and numbers.lifetime == pytest.approx(18 / 7)
    assert numbers.half_life == math.inf
    assert numbers.retention_score == 1  # the relevant steps 0 and 4 have the spans 11 and 9
    assert (numbers.precision, numbers.recall) == (1, 1 / 2)
    assert math.isnan(numbers.old_attention)
    assert numbers.unused == 1 / 5  # step 5 of those that were kept: 0, 2, 3, 4, 5
    assert numbers.cut_short == 2 / 3  # 2 and 3 of those that expired: 1, 2, 3


def test_foremost_memories_are_named_once_each() -> None:
    longest, used = foremost(recorded())
    assert [(m.layer, m.step, m.label, m.lifetime, m.end) for m in longest] == [
        (1, 0, "ball", 7, "episode end"),  # in both layers; the first gave it the longer span
        (2, 1, "other", 6, "episode end"),
        (2, 2, "other", 5, "episode end"),
    ]
    assert [(m.layer, m.step, m.attention, m.end) for m in used] == [
        (1, 0, 1.25, "episode end"),
        (1, 2, 0.25, "expired"),
        (1, 4, 0.25, "episode end"),
    ]


def test_means_over_episodes() -> None:
    silent = replace(recorded(), relevant=np.zeros(STEPS, dtype=bool), events=None)
    numbers = memory_numbers([recorded(), silent], 1)
    assert numbers.episodes == 2
    assert numbers.layers[0].recall == 1 / 2  # nothing can be said of the second episode
    assert numbers.lifetimes["ball"] == [7, 7] and numbers.lifetimes["door"] == [2, 3]
    assert numbers.lifetimes["other"] == pytest.approx([((1 + 2 + 1) / 3 + 18 / 7) / 2, ((6 + 5 + 1) / 3 + 4) / 2])
    with pytest.raises(ValueError, match="`traces` to hold at least 1 episode, actual: 0"):
        memory_numbers([])


def test_lines() -> None:
    numbers = memory_numbers([recorded()])
    text = "\n".join(report_lines(numbers))
    for said in (
        "memory over 1 episode ",
        "layer 1, step 0 (ball): 7 steps, to the end of the episode",
        "layer 1, step 2 (other): attention 0.25 in all, over 2 steps",
        "half of the memories gone after         never",
    ):
        assert said in text
    alone = memory_numbers([replace(recorded(), layers=recorded().layers[:1])])
    assert "agreement" not in "\n".join(report_lines(alone))
    lines = list(comparison_lines(numbers, alone, ("runs/a", "runs/a-very-long-name-of-a-folder")))
    assert "runs/a |" in lines[0] and "...name-of-a-folder" in lines[0]
    assert len({line.index("|") for line in lines}) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_filmstrip(channels: int, tmp_path: Path) -> None:
    trace = replace(recorded(), frames=np.zeros((STEPS, 5, 3, channels), dtype=np.uint8))
    save_filmstrip(trace, 6, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").read_bytes()[:4] == b"\x89PNG"
    assert draw_filmstrip(trace, 6, "Corridor").axes[0].get_title("left") == (
        "Corridor, step 6; framed in red: relevant steps, whose observation a later step needs"
    )
    silent = replace(trace, relevant=np.zeros(STEPS, dtype=bool))
    assert draw_filmstrip(silent, 6).axes[0].get_title("left") == "step 6"
    with pytest.raises(ValueError, match="`step` to be from 0 to 6, actual: 7"):
        save_filmstrip(trace, 7, tmp_path / "strip.png")
    with pytest.raises(ValueError, match="`trace` to be recorded with frames, actual: without"):
        save_filmstrip(recorded(), 1, tmp_path / "strip.png")


def test_timeline_of_a_thousand_steps_names_every_kind_once() -> None:
    steps = 1009
    written = np.arange(steps)
    layer = LayerRecord(
        span=np.ones(steps),
        deleted=np.minimum(written + np.where(written % 101 == 0, 700, 11), steps),
        evicted=written == 303,
        live=np.full(steps, 17),
    )
    zeros = np.zeros(steps)
    trace = EpisodeTrace(layers=(layer,), relevant=written % 101 == 0, rewards=zeros, actions=zeros)
    assert words_of(draw_timeline(trace)) == [
        "a memory, from the step that wrote it to the step that deleted it",
        "evicted: the capacity pushed it out before it expired",
        "memory of a relevant step: a later step needs its observation",
        "pale end of a bar: past its predicted span the memory fades out",
        "diagonal: the present step, where every bar begins",
    ]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_timeline_draws_lifetimes_pale_and_predicted_spans_strong_and_both_layers_counts() -> None:
    figure = draw_timeline(recorded())
    bars = [part for part in figure.axes[0].collections if isinstance(part, LineCollection)]
    ends: dict[float, dict[int, float]] = {0.35: {}, 1.0: {}}
    for part in bars:
        for segment in part.get_segments():
            (start, _), (end, written) = np.asarray(segment).tolist()
            assert start == written
            ends[part.get_alpha() or 1.0][int(written)] = end
    layer = recorded().layers[0]
    assert [ends[0.35][step] for step in range(len(layer.span))] == layer.deleted.tolist()
    strong = np.minimum(np.arange(len(layer.span)) + layer.span, layer.deleted)
    np.testing.assert_allclose([ends[1.0][step] for step in range(len(layer.span))], strong)
    counts = {str(line.get_label()): line for line in figure.axes[-1].lines}
    first, second = counts["layer 1"], counts["layer 2"]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert first.get_linewidth() > second.get_linewidth() and first.get_color() != second.get_color()


def test_a_timeline_without_relevant_steps_says_so() -> None:
    trace = replace(recorded(), relevant=np.zeros(len(recorded().relevant), dtype=bool))
    assert words_of(draw_timeline(trace))[-1] == "no step of this episode is marked as relevant"


def test_curves_list_the_tenth_layer_after_the_second() -> None:
    line = np.array([1, 2]), np.array([3.0, 4.0])
    figure = draw_curves({"a": {f"memory/live_layer_{layer}": line for layer in (10, 2, 1)}})
    assert [label.get_label() for label in figure.axes[1].lines] == ["a, layer 1", "a, layer 2", "a, layer 10"]


def test_curves_of_training(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, value in ((0, 0.25), (7, 0.5), (13, 0.75), (7, 0.625)):
            writer.add_scalar("rollout/success_rate", value, step)
        writer.add_scalar("memory/live_layer_1", 17.0, 7)
        writer.add_scalar("train/loss", 3.0, 7)
    curves = read_curves(tmp_path / "run")
    assert {tag: (steps.tolist(), values.tolist()) for tag, (steps, values) in curves.items()} == {
        "rollout/success_rate": ([0, 7, 13], [0.25, 0.625, 0.75]),
        "memory/live_layer_1": ([7], [17]),
    }
    save_curves({"a": tmp_path / "run", "b": tmp_path / "run"}, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="`run` to hold event files with scores or live memories"):
        read_curves(tmp_path)
    with pytest.raises(ValueError, match="`runs` to hold at least 1 run, actual: 0"):
        draw_curves({})


def test_the_command_line_reports_compares_cuts_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        train(*SMALL, "--total-steps", ROLLOUT, "--out", run, "--seed", len(run.name))
    options = ["--episodes", "5", "--sample", "--cut-span", "3", "--json", str(tmp_path / "e.json")]
    evaluate.main([str(runs[0]), *options, "--forget", "0", "2"])
    evaluate.main([str(runs[0]), *options, "--memory-report", "--filmstrip", "1", "--curves"])
    printed = capsys.readouterr().out
    for said in ("longest kept", "most used", "last action depends on", "relevant steps swapped", "as it is"):
        assert said in printed
    for name in ("filmstrip.png", "training.png"):
        assert (runs[0] / name).is_file() and f"wrote {runs[0] / name}" in printed
    figures = json.loads((tmp_path / "e.json").read_text())
    assert max(layer["live_max"] for layer in figures["layers"]) <= 3 + 4
    kept = figures["memory_report"][str(runs[0])]["kept"]
    assert kept["episodes"] == 5 and len(kept["layers"]) == 2
    evaluate.main([str(runs[0]), "--episodes", "3", "--sample", "--compare", str(runs[1])])
    printed = capsys.readouterr().out
    assert "success with the memory changed" in printed and printed.count(" |") > 10


def test_a_run_that_sees_something_else_is_not_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*SMALL, "--total-steps", ROLLOUT, "--out", tmp_path / "one")
    train(*SMALL, "--total-steps", ROLLOUT, "--out", tmp_path / "two", "--view-size", 5)
    capsys.readouterr()
    with pytest.raises(
        SystemExit, match=r"`compare` to be a run with the observation space Box\(0, 255, \(3, 3, 3\), "
    ):
        evaluate.main([str(tmp_path / "one"), "--episodes", "3", "--compare", str(tmp_path / "two")])
    assert "mean return" not in capsys.readouterr().out  # before anything is played


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cut-span", "-1"], "`cut_span` to be at least 0, actual: -1"),
        (["--filmstrip", "-1"], "`filmstrip` to be at least 0, actual: -1"),
        (["--forget", "3", "-1"], "`forget` to be at least 0, actual: -1"),
        (["--forget", "3", "--record", "2"], "`forget` without what would not show it, actual: with record"),
        (["--forget", "3", "--filmstrip", "0"], "`forget` without what would not show it, actual: with filmstrip"),
        (["--compare", "nowhere"], "`compare` to be another run folder than `run`, actual: nowhere"),
        (["--memory-report", "--episodes", "1"], "`memory_report` to come with at least 2 `episodes`, actual: 1"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        evaluate.main(["nowhere", *arguments])
    said = f"{end.value} {capsys.readouterr().err}".replace("│", " ")
    assert message in " ".join(said.split())
