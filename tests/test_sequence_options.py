"""Options of published settings: what is dropped and when, first weights, shared keys of ages, presets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from expirespan import train_sequence
from expirespan.cli.presets import PRESETS
from expirespan.cli.sequence_config import parse
from expirespan.memory import ExpireSpan, ExpireSpanConfig, core_config
from expirespan.memory.attention import attend
from expirespan.memory.laws import check_core
from expirespan.memory.transformer import Block
from expirespan.sequences.model import SequenceModel
from expirespan.sequences.training import SequenceConfig, make_model

SHAPE = ExpireSpanConfig(layers=2, width=12, heads=3, ff_width=7, max_span=9.0, ramp=4.0, position_window=5)


def made(config: ExpireSpanConfig = SHAPE, **options: Any) -> tuple[SequenceModel, ExpireSpan]:
    """A model with these options, and its core."""
    torch.manual_seed(1)
    model = make_model(config, 5, 4, SequenceConfig(**options))
    assert isinstance(model.core, ExpireSpan)
    return model, model.core


def read(model: SequenceModel, training: bool) -> tuple[torch.Tensor, list[int]]:
    """Scores of eleven steps of two rows, and the memories that each layer then holds."""
    model.train(training)
    tokens = torch.arange(22).reshape(2, 11) % 5
    torch.manual_seed(0)
    scores, output = model(tokens, model.core.initial_state(2), torch.zeros(2, 11, dtype=torch.bool))
    return scores, [int(layer.live.sum()) for layer in output.state.layers]


@pytest.mark.parametrize("option", ["attention_dropout", "activation_dropout", "layer_drop", "embedding_dropout"])
def test_what_is_dropped_is_dropped_in_training_alone(option: str) -> None:
    options: dict[str, Any] = {option: 0.7}
    (plain, _), (dropping, _) = made(), made(**options)
    assert torch.equal(read(plain, False)[0], read(dropping, False)[0])
    assert not torch.allclose(read(plain, True)[0], read(dropping, True)[0], atol=1e-3)


def test_dropped_weights_of_attention_are_those_of_what_is_read() -> None:
    value = torch.eye(5).expand(1, 1, 5, 5)
    torch.manual_seed(0)
    zeros = torch.zeros(1, 1, 3, 5)
    whole, _ = attend(zeros[..., :2], torch.zeros(1, 1, 5, 2), value[..., :2], zeros)
    read, weights = attend(zeros[..., :2], torch.zeros(1, 1, 5, 2), value[..., :2], zeros, 0.5)
    assert torch.allclose(weights, torch.full((1, 1, 3, 5), 0.2))
    assert set(read[0, :, :2].flatten().mul(10).round().int().tolist()) == {0, 4}  # a fifth, dropped or doubled
    assert torch.equal(read[..., 2:], whole[..., 2:])  # how much there is to read stays known


def test_a_layer_that_is_left_out_writes_its_memories() -> None:
    model, core = made(layer_drop=0.9999)
    kept = read(made()[0], True)[1]
    scores, written = read(model, True)
    tokens = torch.arange(22).reshape(2, 11) % 5
    embedded = model.scale * model.embedding(tokens)
    assert torch.allclose(scores, model.head(core.final_norm(embedded)))
    assert written[0] == kept[0] and written[1] > 0


def test_first_weights_are_divided_by_the_root_of_twice_the_depth() -> None:
    (plain, _), (scaled, _) = made(), made(depth_scaled=True)
    ours, theirs = dict(scaled.named_parameters()), dict(plain.named_parameters())
    changed = {name: theirs[name] / ours[name] for name in ours if not torch.equal(ours[name], theirs[name])}
    halves = ("output.weight", "feed_forward.2.weight")
    assert changed.keys() == {f"core.layers.{layer}.{half}" for layer in range(2) for half in halves}
    for ratio in changed.values():
        assert torch.allclose(ratio[ratio.isfinite()], torch.tensor(2.0))


def test_heads_and_layers_share_their_keys_of_ages() -> None:
    model, core = made(shared_positions=True)
    assert [name for name, _ in model.named_parameters() if name.endswith("position")] == ["core.layers.0.position"]
    first, second = core.stack()
    assert first.position is second.position and first.positions is not None and first.position is not None
    assert torch.equal(first.positions.key, first.position.expand(3, -1, -1))
    read(model, True)[0].sum().backward()
    assert first.position.grad is not None and first.position.grad.norm() > 0
    check_core(core)


def test_post_norm_with_all_options_keeps_the_laws() -> None:
    shape = ExpireSpanConfig(**{**SHAPE.__dict__, "pre_norm": False, "pre_div": 4.0, "shorten_spans": True})
    drops: dict[str, Any] = {"attention_dropout": 0.1, "activation_dropout": 0.1, "layer_drop": 0.1}
    check_core(made(shape, shared_positions=True, depth_scaled=True, **drops)[1].eval())


@pytest.mark.parametrize(
    ("core", "option", "value"),
    [
        ("lstm", "attention_dropout", 0.1),
        ("lstm", "activation_dropout", 0.1),
        ("lstm", "depth_scaled", True),
        ("none", "attention_dropout", 0.1),
        ("gru", "layer_drop", 0.1),
        ("compressive", "shared_positions", True),
    ],
)
def test_a_core_without_such_a_part_is_refused(core: str, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"Expect `{option}` for"):
        make_model(core_config(core), 5, 4, SequenceConfig(**options))


@pytest.mark.parametrize("core", ["transformer-xl", "gtrxl", "adaptive-span", "compressive"])
def test_cores_with_a_window_drop_and_scale_too(core: str) -> None:
    options = SequenceConfig(attention_dropout=0.5, activation_dropout=0.5, depth_scaled=True)
    model = make_model(core_config(core, {"width": 12, "heads": 3, "ff_width": 7}), 5, 4, options)
    blocks = [module for module in model.core.modules() if isinstance(module, Block)]
    assert {block.dropped_weights for block in blocks} == {0.5} == {block.activation_dropout for block in blocks}
    tokens, resets = torch.arange(14).reshape(2, 7) % 5, torch.zeros(2, 7, dtype=torch.bool)
    torch.manual_seed(0)
    one, other = (model(tokens, model.core.initial_state(2), resets)[0] for _ in range(2))
    assert not torch.equal(one, other)
    model.eval()
    one, other = (model(tokens, model.core.initial_state(2), resets)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_keys_of_ages_need_a_window() -> None:
    with pytest.raises(ValueError, match="`shared_positions` with a position_window above 0, actual: 0"):
        made(ExpireSpanConfig(width=12, heads=3, ff_width=7, position_window=0), shared_positions=True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_and_what_stands_beside_it_replaces_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(256)) * 8)
    small = "--layers 1 --width 8 --heads 2 --ff-width 8 --segment 8 --batch-size 2 --position-window 8 --updates 2"
    task = f"--data {tmp_path / 'text'}" if name.startswith("enwik8") else ""
    words = f"{small} --preset {name} {task} --out {tmp_path / 'run'}".split()
    config = parse(words)
    assert (config.preset, config.memory.layers, config.learning.segment) == (name, 1, 8)  # pyright: ignore[reportAttributeAccessIssue]
    assert config.pressure.penalty_weight and not config.pressure.has_budget
    train_sequence.main(words)
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_a_preset_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        train_sequence.main(["--preset", "enwik9"])
    assert str(left.value).startswith("expirespan-train-sequence: Expect `preset` to be one of enwik8-12l, ")


def test_large_numbers_may_be_written_as_people_do() -> None:
    config = parse([*"--task copy --updates 1e4 --evaluate-every 2k --timeline-steps=4_000".split()])
    assert (config.updates, config.evaluate_every, config.timeline_steps) == (10_000, 2_000, 4_000)


def test_the_last_preset_holds_and_a_budget_replaces_its_penalty() -> None:
    config = parse(["--preset", "copy-16k", "--preset", "collision-16k", "--memory-budget", "200"])
    assert (config.preset, config.task) == ("collision-16k", "collision")
    assert config.pressure.memory_budget == 200 and config.pressure.penalty_weight is None
    assert parse(["--preset", "None"]).preset is None
