"""Training on streams of tokens: what is learned, exact resume, mistakes on the command line."""

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from expirespan import train_sequence
from expirespan.cli.sequence_config import TrainSequenceConfig, from_json, make_stream, parse, read_run, to_json
from expirespan.evaluate import main as evaluate_main
from expirespan.memory import CORES, ExpireSpanConfig, PressureConfig, Record, core_config
from expirespan.sequences.checkpoint import read
from expirespan.sequences.model import SequenceModel
from expirespan.sequences.recall import Copy, CopyConfig
from expirespan.sequences.text import Text, TextConfig
from expirespan.sequences.training import Evaluator, SequenceConfig, SequenceTrainer, evaluate
from torch.utils.tensorboard import SummaryWriter

SMALL = "--width 16 --ff-width 16 --max-span 100 --ramp 4 --memory-budget 10 --segment 16 --batch-size 4"
COPY = "--task copy --task-args length=2 distractors=9 symbols=4"
TOO_LARGE = "the largest size, to be one for which there is memory, actual:"
TINY: dict[str, dict[str, Any]] = {
    name: {"width": 16} if name in ("lstm", "gru") else {"width": 16, "ff_width": 16} for name in CORES
}


def run(tmp_path: Path, options: str) -> Path:
    train_sequence.main([*options.split(), "--out", str(tmp_path)])
    return tmp_path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text"
    file.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 200)
    return file


def test_keys_are_answered_by_their_values_after_a_short_training(tmp_path: Path) -> None:
    options = "--task recall --task-args steps=16 pairs=2 keys=6 values=6 fillers=2 --segment 32 --updates 300 "
    options += "--width 32 --ff-width 32 --max-span 64 --ramp 4 --memory-budget 8 --learning-rate 3e-3"
    run(tmp_path / "run", f"{options} --evaluate-every 300 --evaluate-windows 20")
    config = from_json((tmp_path / "run" / "config.json").read_text())
    training = train_sequence.Training(config, tmp_path / "run")
    found = evaluate(training.trainer.model, make_stream(config, "test"), 32, 20)
    assert found.error < 0.05  # guessing: 0.83
    assert found.scored > 500


@pytest.mark.parametrize("options", ["", "--core lstm --width 16", "--accumulate 2 --optimizer adamw --bf16 --decay"])
def test_a_resumed_training_is_that_of_one_without_a_stop(options: str, tmp_path: Path, text: Path) -> None:
    own = options if "lstm" in options else f"{SMALL} {options}"
    common = (
        f"--task text --data {text} {own} --segment 16 --batch-size 4 --updates 24 --log-every 5 --evaluate-every 7"
    )
    whole = run(tmp_path / "whole", common)
    config = parse([*common.split(), "--out", str(tmp_path / "parts")])
    training = train_sequence.Training(config, tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    for _ in range(13):
        training.trainer.update()
        if training.trainer.updates % 5 == 0:
            training.trainer.take_figures()
        if training.trainer.updates % 7 == 0:
            training.evaluator.read(config.evaluate_windows)
    training.save()
    (tmp_path / "parts" / "config.json").write_text(to_json(config))
    train_sequence.main(["--resume", str(tmp_path / "parts")])
    (ours, one), (theirs, other) = (read(folder / "checkpoint.safetensors") for folder in (tmp_path / "parts", whole))
    assert one == other and one.updates == 24
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_run_goes_on_with_what_may_change_and_nothing_else(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", f"{COPY} {SMALL} --updates 2 --learning-rate 2e-3 --evaluate-every 0")
    before = read_run(folder)
    defaults = TrainSequenceConfig()  # what is asked for counts where it is a default, too
    asked = f"--updates {defaults.updates} --learning-rate {defaults.learning.learning_rate} --timeline-every 3".split()
    config = train_sequence.resumed(parse(["--resume", str(folder), *asked]), folder)
    assert (config.updates, config.learning.learning_rate, config.timeline_every) == (10_000, 1e-3, 3)
    assert (config.resume, config.memory, config.task_args) == (None, before.memory, before.task_args)
    for words in ("--seed 1", "--width 32", "--preset collision-16k"):
        said = "no other options than updates, learning_rate, device, data, workers and timeline_every, actual: "
        with pytest.raises(SystemExit, match=f"Expect `resume` with {said}{words.split()[0][2:]}"):
            train_sequence.main(["--resume", str(folder), *words.split()])
    train_sequence.main(["--resume", str(folder), "--updates", "3", "--learning-rate", "1e-3"])
    assert read(folder / "checkpoint.safetensors")[1].updates == 3
    assert read_run(folder).learning.learning_rate == 1e-3


@pytest.mark.parametrize("core", TINY)
def test_every_core_learns_from_a_stream_and_is_evaluated_with_carried_memory(core: str) -> None:
    torch.manual_seed(0)
    stream = Copy(CopyConfig(length=2, distractors=9, symbols=4), batch_size=3)
    model = SequenceModel(core_config(core, TINY[core]), stream.vocabulary, stream.classes)
    trainer = SequenceTrainer(model, stream, SequenceConfig(segment=7, batch_size=3), core_settings(core), 20)
    for _ in range(4):
        trainer.update()
    figures = trainer.take_figures()
    assert all(map(math.isfinite, figures.values())) and figures["train/grad_norm"] > 0
    fresh = [Copy(CopyConfig(length=2, distractors=9, symbols=4), batch_size=3, seed=5) for _ in range(3)]
    parts, whole = evaluate(model, fresh[0], 4, 10), evaluate(model, fresh[1], 40, 1)
    assert (parts.scored, parts.error) == (whole.scored, whole.error)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.live == pytest.approx(whole.live)
    evaluator = Evaluator(model, fresh[2], 4)  # its second reading begins within an episode
    first, second = evaluator.read(4), evaluator.read(6)
    assert first.loss * first.scored + second.loss * second.scored == pytest.approx(whole.loss * whole.scored, rel=1e-4)


def core_settings(core: str) -> Any:
    return PressureConfig(memory_budget=PressureConfig.memory_budget if core == "expire-span" else None)


def test_the_loss_is_the_mean_over_scored_steps_and_what_the_core_charges() -> None:
    torch.manual_seed(0)
    stream, same = (Copy(CopyConfig(length=2, distractors=5, symbols=4), batch_size=3) for _ in range(2))
    shape = ExpireSpanConfig(width=8, heads=2, ff_width=8, max_span=6.0, ramp=3.0)
    model = SequenceModel(shape, stream.vocabulary, stream.classes)
    settings = PressureConfig(penalty_weight=0.1)
    trainer = SequenceTrainer(model, stream, SequenceConfig(segment=9, batch_size=3), settings, 20)
    tokens, targets, resets = (torch.from_numpy(part) for part in same.read(9))
    scores, output = model(tokens, model.core.initial_state(3), resets, record=Record.LOSSES)
    chosen = torch.log_softmax(scores, 2).gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    scored = targets >= 0
    loss = -(chosen * scored).sum() / scored.sum() + 0.1 * output.losses["penalty"] / 27
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
    assert expected["core.layers.0.span.weight"].any()
    trainer._add_gradient(False)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_gradients_that_are_not_finite_end_the_training_before_a_weight_changes() -> None:
    stream = Copy(CopyConfig(length=2, distractors=5, symbols=4), batch_size=3)
    model = SequenceModel(core_config("gru", {"width": 8}), stream.vocabulary, stream.classes)
    trainer = SequenceTrainer(model, stream, SequenceConfig(segment=9, batch_size=3), core_settings("gru"), 20)
    model.head.bias.data[0] = float("inf")
    before = model.embedding.weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"Expect finite gradients, actual: nan after 0 updates"):
        trainer.update()
    assert torch.equal(model.embedding.weight, before)


def test_the_whole_of_a_text_is_read_once(text: Path) -> None:
    config = TextConfig(path=str(text))
    model = SequenceModel(core_config("gru", {"width": 8}), 256, 256, tied=True)
    found = evaluate(model, Text(config, batch_size=3, split="test", whole=True), 50)
    size = text.stat().st_size
    assert found.scored == size - round(0.95 * size) - 1
    assert found.bits == pytest.approx(found.loss / math.log(2))


def test_a_run_is_evaluated_and_writes_text(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", f"--task text --data {text} {SMALL} --updates 2 --evaluate-every 0")
    evaluate_main([str(folder), "--batch-size", "2", "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    size = text.stat().st_size
    assert figures["scored"] == size - round(0.95 * size) - 1 and figures["split"] == "test"
    capsys.readouterr()
    evaluate_main([str(folder), "--sample-text", "9", "--prompt", "the"])
    assert capsys.readouterr().out.startswith("the")
    with pytest.raises(SystemExit, match="Expect only options that --help lists, actual: --splitt"):
        evaluate_main([str(folder), "--splitt", "test"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task text", "Expect `data` to be a file for the task text, actual: None"),
        ("--task copy --data x", "Expect `data` to be None for the task copy, actual: x"),
        ("--task text --data nowhere", "Expect `data` to be an existing file, actual: nowhere"),
        ("--task text --data .", "Expect `data` to be an existing file, actual: ."),
        ("--task text --data /dev/null", "Expect `data` to be an existing file, actual: /dev/null"),
        ("--task copy --task-args length", "Expect `task_args` to be NAME=VALUE, actual: 'length'"),
        ("--task copy --task-args length=5 length=6", "Expect `task_args` to name length once, actual: 'length=6' as"),
        ("--task copy --memory-budget 5", "Expect `memory_budget` to be at least 16, which a layer holds with a ramp"),
        ("--task copy --device=", "Expect `device` to be cpu"),
        (
            "--task copy --task-args lenght=3",
            "Expect `task_args` to be arguments of copy .*: lenght; did you mean len",
        ),
        ("--task copy --task-args length=0", "Expect `length` to be at least 1, actual: 0"),
        ("--task copy --core lstm --memory-budget 3", "Expect `core` to be expire-span, as memory_budget is an option"),
        ("--task copy --segmnet 3", "Expect only options that --help lists, actual: --segmnet; did you mean --segment"),
        ("--task copy --weight-decay 0.1", "Expect `weight_decay` to come with adamw, actual: 0.1 with adam"),
        ("--task copy --tied", "Expect `tied` to be False where the classes"),
        ("--task copy --layers 1025", "Expect `layers` to be at most 1024, actual: 1025"),
        (f"--task copy --ff-width {10**15}", f"Expect `ff_width`, {TOO_LARGE} {10**15} "),
        (f"--task copy --core gru --width {10**10}", f"Expect `width`, {TOO_LARGE} {10**10} "),
        (f"--task copy --timeline-steps {10**15}", f"Expect `timeline_steps`, {TOO_LARGE} {10**15} "),
        (f"--task copy --task-args symbols={10**15}", f"Expect `symbols`, {TOO_LARGE} {10**15} "),
        (f"--task collision --task-args colors={10**15}", f"Expect `colors`, {TOO_LARGE} {10**15} "),
        ("--resume nowhere", "Expect a run folder with a config.json, actual: nowhere"),
        ("--resume", "Expect `resume` to come with a value, actual: none"),
        ("--task copy --device cudda", "Expect `device` to be cpu"),
    ],
)
def test_mistakes_are_told_in_one_line(options: str, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        train_sequence.main(options.split())
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_files_that_are_damaged_or_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", f"{COPY} {SMALL} --updates 2 --evaluate-every 0")
    checkpoint, configuration = folder / "checkpoint.safetensors", folder / "config.json"
    data, document = checkpoint.read_bytes(), json.loads(configuration.read_text())
    for wrong, message in (
        (data[:-9], "is not a readable checkpoint"),
        (data[:-1] + bytes([data[-1] ^ 1]), "its contents are not those that were written"),
        (b"", "is not a readable checkpoint"),
    ):
        checkpoint.write_bytes(wrong)
        with pytest.raises(SystemExit, match=message):
            train_sequence.main(["--resume", str(folder), "--updates", "4"])
    checkpoint.write_bytes(data)
    for changes, message in (
        ({"format": 2}, "Expect the format 1, actual: 2"),
        ({"kind": None}, "Expect the kind 'sequence', actual: None"),
        ({"updates": "many"}, "can't be read"),
        ({"memory": document["memory"] | {"width": 32}}, "checkpoint of another model, or of other data"),
    ):
        configuration.write_text(json.dumps(document | changes))
        with pytest.raises(SystemExit, match=message) as error:
            train_sequence.main(["--resume", str(folder), *("--updates 4".split() if "updates" not in changes else [])])
        assert "\n" not in str(error.value)
    for wrong in (b"", b"[", b"\xff\xfe", b"[" * 10**5):
        configuration.write_bytes(wrong)
        for program, words in ((train_sequence.main, ["--resume", str(folder)]), (evaluate_main, [str(folder)])):
            with pytest.raises(SystemExit, match=r"The configuration of the run can't be read: .*config\.json:") as end:
                program([*words, "--threads", "1"])
            assert "\n" not in str(end.value)
    configuration.unlink()
    for words in ([str(folder)], [str(folder), "--windows", "2"]):  # which an agent's evaluation has not
        with pytest.raises(SystemExit, match=rf"Expect a run folder with a config\.json, actual: {folder}"):
            evaluate_main(words)


def test_a_run_of_the_first_format_goes_on(tmp_path: Path) -> None:
    """Written at commit 16d0317, when the states of recurrent cores had no clock."""
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "files" / "sequence-1-gru", folder)
    train_sequence.main(["--resume", str(folder), "--updates", "6"])
    tensors, document = read(folder / "checkpoint.safetensors")
    assert document.updates == 6
    assert tensors["memory/time"].shape == (2,)


def test_a_signal_saves_and_the_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse([*f"{COPY} {SMALL} --updates 30 --evaluate-every 0".split(), "--out", str(tmp_path / "run")])
    before = SequenceTrainer.update

    def stopping(self: SequenceTrainer) -> None:
        before(self)
        if self.updates == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SequenceTrainer, "update", stopping)
    assert train_sequence.train(config) == 15
    assert "Stopped and saved at 11 updates" in capsys.readouterr().out
    assert train_sequence.train(parse(["--resume", str(tmp_path / "run")])) is None
    assert read(tmp_path / "run" / "checkpoint.safetensors")[1].updates == 30


def test_a_text_that_was_changed_is_noticed_and_one_that_was_moved_is_found(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "run", f"--task text --data text {SMALL} --updates 2 --evaluate-every 0 --timeline-every 0")
    monkeypatch.chdir(folder)  # a relative path is of where the run began
    evaluate_main([str(folder)])
    resume, moved = ["--resume", str(folder), "--updates"], tmp_path / "moved"
    train_sequence.main([*resume, "3"])
    text.rename(moved)
    for program, words in ((train_sequence.main, [*resume, "4"]), (evaluate_main, [str(folder)])):
        with pytest.raises(SystemExit, match=r"Expect `data` to be an existing file, actual: .*text"):
            program(words)
    evaluate_main([str(folder), "--data", str(moved)])
    evaluate_main([str(folder), "--sample-text", "3"])  # which needs no file
    train_sequence.main([*resume, "4", "--data", str(moved)])
    assert read_run(folder).data == moved
    data = moved.read_bytes()
    moved.write_bytes(data[:-1] + b"!")
    for program, words in ((train_sequence.main, [*resume, "5"]), (evaluate_main, [str(folder)])):
        with pytest.raises(SystemExit, match=r"Expect `path` to hold the bytes that were trained on, actual: .*moved"):
            program(words)
    evaluate_main([str(folder), "--data", str(moved)])  # another file, asked for
    assert read(folder / "checkpoint.safetensors")[1].updates == 4


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "run", f"{COPY} {SMALL} --updates 2 --evaluate-every 0 --timeline-every 0")
    before = (folder / "checkpoint.safetensors").read_bytes()

    def full(path: Path, data: bytes) -> int:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = r"checkpoint\.safetensors could not be written, and is what it was before: No space"
    with pytest.raises(SystemExit, match=said):
        train_sequence.main(["--resume", str(folder), "--updates", "4"])
    hint = f"Training stopped. Its checkpoint is of 2 updates; go on with: expirespan-train-sequence --resume {folder}"
    assert hint in capsys.readouterr().err
    assert (folder / "checkpoint.safetensors").read_bytes() == before and not list(folder.glob(".*"))


def test_training_goes_on_where_events_can_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    run(tmp_path / "run", f"{COPY} {SMALL} --updates 3 --log-every 1 --evaluate-every 0 --timeline-every 0")
    said = capsys.readouterr()
    assert "Trained for 3 updates" in said.out
    assert said.err.count("events can't be written at 1 updates, training goes on, its curves end here") == 1


def test_files_that_may_not_be_read_or_written_are_named_before_the_work(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "run", f"{COPY} {SMALL} --updates 1 --evaluate-every 0 --timeline-every 0")
    capsys.readouterr()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (folder, text))
    for option in ("--spans", "--timeline", "--record=1"):
        with pytest.raises(SystemExit, match=f"Expect `run` to be a folder that may be written to, .*: {folder}"):
            evaluate_main([str(folder), option])
    with pytest.raises(SystemExit, match=f"Expect `data` to be a file that may be read, actual: {text}"):
        train_sequence.main(["--task", "text", "--data", str(text)])
    assert not capsys.readouterr().out


def test_a_folder_whose_process_was_killed_at_its_very_beginning_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.7.unfinished").write_text("{")
    run(folder, f"{COPY} {SMALL} --updates 2 --evaluate-every 0 --timeline-every 0")
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["checkpoint", "config", "events"]


def test_where_nothing_is_scored_there_are_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    written: dict[str, float] = {}
    monkeypatch.setattr(train_sequence.Events, "write", lambda self, figures, updates: written.update(figures))
    task = "--task copy --task-args length=2 distractors=400 symbols=4"
    folder = run(tmp_path / "run", f"{task} {SMALL} --updates 2 --evaluate-every 1 --evaluate-windows 1")
    assert "eval/live_layer_1" in written and not {"eval/bits", "eval/error"} & written.keys()
    assert "no step was scored in the last evaluation" in capsys.readouterr().out
    config = parse([*task.split(), *SMALL.split()])
    found = evaluate(train_sequence.Training(config, folder).trainer.model, make_stream(config, "test"), 16, 1)
    assert found.scored == 0 and math.isnan(found.loss) and math.isnan(found.error)
    with pytest.raises(SystemExit, match="Expect `windows` to reach a scored step, actual: 64 steps at which no step"):
        evaluate_main([str(folder), "--windows", "1"])


def test_what_cannot_be_done_for_a_run_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "run", f"{COPY} {SMALL} --updates 2 --evaluate-every 0")
    asked = (
        (f"--spans --record-steps {10**15}", f"Expect `record_steps`, {TOO_LARGE} {10**15} "),
        (f"--json {tmp_path}", "Expect `json` to be a file in an existing folder, actual: "),
        (f"--json {tmp_path / 'none' / 'x.json'}", "Expect `json` to be a file in an existing folder, actual: "),
        ("--prompt x", "Expect `prompt` to come with `sample_text`, actual: x alone"),
        ("--temperature 2", "Expect `temperature` to come with `sample_text`, actual: 2.0 alone"),
        ("--sample-text 5 --spans", "Expect `spans` not to be given beside `sample_text`, actual: True"),
        ("--sample-text 5 --task-args a=b", "Expect `task_args` not to be given beside `sample_text`"),
        ("--windows 4 --forget 1000", "Expect `forget` to name steps that are read, up to 1. after a reset, actual"),
    )
    for words, message in asked:
        capsys.readouterr()
        with pytest.raises(SystemExit, match=message):
            evaluate_main([str(folder), *words.split()])
        assert not capsys.readouterr().out
    with pytest.raises(SystemExit, match="Expect `core` to be expire-span, that of the run to resume, actual: lstm"):
        train_sequence.main(["--resume", str(folder), "--core", "lstm"])
