"""The streams of tokens: exact resume, labels against literal loops, rates, and what is refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expirespan.sequences import (
    IGNORED,
    AssociativeRecall,
    AssociativeRecallConfig,
    Collision,
    CollisionConfig,
    Copy,
    CopyConfig,
    Stream,
    Text,
    TextConfig,
    Window,
    draw_frame,
)
from expirespan.sequences.collision import BLOCK, FRAME
from expirespan.sequences.collision_world import draw_frames, first_world, move
from expirespan.sequences.streams import join

ROWS = 3
SMALL = CollisionConfig(grid=5, colors=3, speed=0.7, recolor=0.1)
STREAMS = ["text", "documents", "whole", "collision", "latest", "copy", "recall"]
PERIODS = b"the agent waits. a door opens. the ball is red. "


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stream]:
    """A small stream of each kind."""
    path = tmp_path / "text"
    path.write_bytes(PERIODS * 23)

    def made(kind: str, seed: int = 7, batch_size: int = ROWS) -> Stream:
        common: Any = {"seed": seed, "batch_size": batch_size}
        if kind in ("text", "documents", "whole"):
            separator = ord(".") if kind == "documents" else None
            return Text(TextConfig(path=str(path), separator=separator), whole=kind == "whole", **common)
        if kind in ("collision", "latest"):
            return Collision(SMALL if kind == "collision" else CollisionConfig(easy="latest"), **common)
        if kind == "copy":
            return Copy(CopyConfig(length=5, distractors=13), **common)
        return AssociativeRecall(AssociativeRecallConfig(pairs=5, steps=29, keys=11, values=7, fillers=3), **common)

    return made


def equal(first: Window, second: Window) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", STREAMS)
def test_any_split_of_reads_gives_the_same_steps(kind: str, make: Callable[..., Stream]) -> None:
    sizes = [1, 2, 700, 1, 1, 1343, 5, 2300]
    stream = make(kind)
    parts = [stream.read(size) for size in sizes]
    assert equal(join(parts), make(kind).read(sum(sizes)))
    for part, size in zip(parts, sizes, strict=True):
        assert [(a.dtype, a.shape) for a in part] == [(np.dtype(t), (ROWS, size)) for t in ("i8", "i8", "?")]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stored_state_goes_on_to_the_bit(kind: str, make: Callable[..., Stream]) -> None:
    stream = make(kind)
    for steps in (17, 2031, 301):  # 2,048 steps are a block of frames
        stream.read(steps)
        file = io.BytesIO()
        np.savez(file, **stream.state_dict())  # pyright: ignore[reportArgumentType]  # names of arrays, not options
        file.seek(0)
        restored = make(kind)
        restored.read(40)
        restored.load_state_dict(dict(np.load(file)))
        for steps_after in (3, 2500):
            follows = make(kind)
            follows.load_state_dict(stream.state_dict())
            assert equal(restored.read(steps_after), follows.read(steps_after))
            stream.read(steps_after)
            assert str(stream.state_dict()) == str(restored.state_dict())


@pytest.mark.parametrize("kind", STREAMS)
def test_tokens_and_targets_are_within_bounds_and_rows_begin_with_a_reset(
    kind: str, make: Callable[..., Stream]
) -> None:
    stream = make(kind)
    window = stream.read(4001)
    assert 0 <= window.tokens.min() and window.tokens.max() < stream.vocabulary
    assert window.targets.min() >= IGNORED and IGNORED < window.targets.max() < stream.classes
    assert window.resets[:, 0].all()


@pytest.mark.parametrize("kind", ["text", "collision", "copy", "recall"])
def test_seeds_and_rows_differ(kind: str, make: Callable[..., Stream]) -> None:
    first, second = make(kind).read(500).tokens, make(kind, seed=8).read(500).tokens
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_the_target_of_a_byte_is_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "text"
    content = np.random.default_rng(0).integers(256, size=1013, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    config = TextConfig(path=str(path), shares=(0.5, 0.3, 0.1))
    for split, first, last in (("train", 0, 506), ("valid", 506, 810), ("test", 810, 912)):
        part = content[first:last].astype(int)
        stream = Text(config, batch_size=ROWS, split=split, whole=True)
        window = stream.read(61)
        assert stream.ended == (split == "test")
        window = join([window, stream.read(500)])
        assert stream.ended
        scored = window.targets != IGNORED
        assert window.tokens[scored].tolist() == part[:-1].tolist()
        assert window.targets[scored].tolist() == part[1:].tolist()
        assert not window.tokens[~scored].any()
        assert (stream.read(5).targets == IGNORED).all()
        assert window.resets.sum() == ROWS


def test_training_begins_anew_at_random_offsets(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(1 + 2 * 97)))
    stream = Text(TextConfig(path=str(path), shares=(1.0, 0.0, 0.0)), batch_size=2, seed=3)
    window = stream.read(1500)
    assert not stream.ended
    assert (window.targets == window.tokens + 1).all()
    assert (window.tokens[1] == window.tokens[0] + 97).all()
    begins = np.flatnonzero(window.resets[0])
    assert (window.resets == window.resets[0]).all()
    assert len(set(window.tokens[0, begins])) > 10
    assert (window.tokens[0, begins[1:] - 1] == 96).all()
    inside = np.setdiff1d(np.arange(1500), begins)
    assert (window.tokens[0, inside] == window.tokens[0, inside - 1] + 1).all()


@pytest.mark.parametrize("whole", [False, True])
def test_a_separator_resets_after_it(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "text"
    path.write_bytes(PERIODS * 5)
    stream = Text(TextConfig(path=str(path), shares=(1.0, 0.0, 0.0), separator=ord(".")), batch_size=1, whole=whole)
    window = join([stream.read(1) for _ in range(238)])
    after = np.flatnonzero(window.tokens[0, :-1] == ord(".")) + 1
    assert window.resets[0, after].all()
    begins = np.flatnonzero(window.resets[0])
    assert {*after} <= {*begins}
    assert len({*begins} - {*after}) == (1 if whole else len(begins) - len(after))
    assert len(after) >= 14


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shares": (0.9, 0.1, 0.1)}, r"Expect `shares` to sum to at most 1, actual: \(0.9, 0.1, 0.1\)"),
        ({"shares": (0.9, 0.1)}, "Expect `shares` to be one for each of train, valid, test"),
        ({"shares": (0.9, -0.1, 0.1)}, "Expect `shares` to be between 0 and 1, actual: -0.1"),
        ({"separator": 256}, "Expect `separator` to be at most 255, actual: 256"),
        ({"path": "nowhere"}, "Expect `path` to be a file, actual: nowhere, which is not"),
        ({"path": "."}, "Expect `path` to be a file, actual: ., which is not"),
        ({"content": b""}, "Expect `path` to be a file that holds text, actual: .*text, which is empty"),
        ({"content": b"abcdefghij"}, "Expect `batch_size` to be less than the 9 bytes of .*text for train, actual: 9"),
        ({"shares": (0.0, 1.0, 0.0)}, "Expect `shares` to leave at least 2 bytes of .*text for train, actual: 0, by"),
        ({"content": b"a"}, "Expect `shares` to leave at least 2 bytes of .*text for train, actual: 1, by"),
        ({"separator": 0}, "Expect `separator` to be a byte of .*text, actual: 0, which is not in it"),
        ({"split": "dev"}, "Expect `split` to be one of train, valid, test, actual: 'dev'"),
        ({"batch_size": 0}, "Expect `batch_size` to be at least 1, actual: 0"),
        ({"seed": -1}, "Expect `seed` to be at least 0, actual: -1"),
    ],
)
def test_text_that_cannot_be_read_is_refused(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(arguments.get("content", PERIODS))
    config: dict[str, Any] = {"path": str(path)}
    stream: dict[str, Any] = {"batch_size": 9}
    for name in arguments.keys() - {"content"}:
        (config if name in ("path", "shares", "separator") else stream)[name] = arguments[name]
    with pytest.raises(ValueError, match=said):
        Text(TextConfig(**config), **stream)


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        (CollisionConfig, {"grid": 1}, "`grid` to be at least 2, actual: 1"),
        (CollisionConfig, {"colors": 0}, "`colors` to be at least 1, actual: 0"),
        (CollisionConfig, {"grid": 5, "speed": 4.5}, "`speed` to be at most 4, actual: 4.5"),
        (CollisionConfig, {"recolor": 1.1}, "`recolor` to be between 0 and 1, actual: 1.1"),
        (CollisionConfig, {"easy_share": -1.0}, "`easy_share` to be between 0 and 1, actual: -1.0"),
        (CollisionConfig, {"easy": "first"}, "`easy` to be one of present, latest, actual: 'first'"),
        (CopyConfig, {"length": 0}, "`length` to be at least 1, actual: 0"),
        (CopyConfig, {"distractors": -1}, "`distractors` to be at least 0, actual: -1"),
        (AssociativeRecallConfig, {"pairs": 70}, "`keys` to be at least 70, actual: 64"),
        (AssociativeRecallConfig, {"steps": 31}, "`steps` to be at least 32, actual: 31"),
    ],
)
def test_rules_that_make_no_task_are_refused(config: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"Expect {said}"):
        config(**arguments)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_state_of_another_stream_is_refused(kind: str, make: Callable[..., Stream], tmp_path: Path) -> None:
    stream = make(kind)
    with pytest.raises(ValueError, match="Expect `steps` to be at least 1, actual: 0"):
        stream.read(0)
    stream.read(100)
    state = stream.state_dict()
    name = next(iter(state))
    with pytest.raises(ValueError, match=f"Expect the arrays .*, actual: one more or less, {name}"):
        stream.load_state_dict({other: array for other, array in state.items() if other != name})
    with pytest.raises(ValueError, match=rf"Expect the array `{name}` to be int64 \[\], actual: float64 \[\]"):
        stream.load_state_dict(state | {name: np.array(0.0)})
    with pytest.raises(ValueError, match=f"Expect the array `{name}` to be from 0 to .*, actual: -1"):
        stream.load_state_dict(state | {name: np.array(-1)})
    assert str(stream.state_dict()) == str(state)
    if kind == "collision":
        with pytest.raises(ValueError, match=r"`position` to be float64 \[2, 4, 2\], actual: float64 \[2, 3, 2\]"):
            make(kind, batch_size=4).load_state_dict(state)
        with pytest.raises(ValueError, match=r"`position` to be from .*, actual: nan"):
            stream.load_state_dict(state | {"position": np.full((2, ROWS, 2), np.nan)})
    if kind == "text":
        (tmp_path / "text").write_bytes(PERIODS * 24)
        with pytest.raises(ValueError, match=r"Expect `path` to hold the bytes that were trained on, actual: .*text"):
            make(kind).load_state_dict(state)
        del state["content"]  # as of before it was stored
        with pytest.raises(ValueError, match="Expect the array `bytes` to be from 1037 to 1037, actual: 994"):
            make(kind).load_state_dict(state)
        (tmp_path / "text").write_bytes(PERIODS * 23)
        make(kind).load_state_dict(state)


def decoded(stream: Collision, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Each frame's numbers as in the paper's list, [B, F, 8], and the target of its eighth token, [B, F]."""
    window = stream.read(frames * FRAME)
    grid, colors = stream.config.grid, stream.config.colors
    kind = [0, grid, 2 * grid, 0, grid, 2 * grid, 2 * grid + colors, 2 * grid + colors]
    size = [grid, grid, colors, grid, grid, colors, colors, colors]
    numbers = window.tokens.reshape(stream.batch_size, frames, FRAME) - kind
    assert ((numbers >= 0) & (numbers < size)).all()
    targets = window.targets.reshape(numbers.shape)
    assert (targets[..., :-1] == IGNORED).all()
    assert window.resets.sum() == stream.batch_size
    return numbers, targets[..., -1]


@pytest.mark.parametrize("easy", ["present", "latest"])
def test_collision_answers_are_those_of_a_literal_loop(easy: str) -> None:
    config = CollisionConfig(grid=5, colors=3, speed=0.7, recolor=0.1, easy_share=1.0, easy=easy)
    numbers, targets = decoded(Collision(config, batch_size=ROWS, seed=1), 3 * BLOCK)
    easy_pairs = 0
    for row in range(ROWS):
        latest: dict[tuple[int, int], int] = {}
        newest = None
        for (row0, column0, color0, row1, column1, color1, *asked), target in zip(
            numbers[row].tolist(), targets[row].tolist(), strict=True
        ):
            if (row0, column0) == (row1, column1):
                newest = color0, color1
                latest[newest] = 2 * (row0 > 2) + (column0 > 2)
            if easy == "present":
                assert tuple(asked) == (color0, color1)
            elif newest is not None:
                assert tuple(asked) == newest
            assert target == latest.get(tuple(asked), IGNORED)
            easy_pairs += tuple(asked) == (color0, color1)
        assert len(latest) >= 8
    assert (easy_pairs == ROWS * 3 * BLOCK) == (easy == "present")


def test_a_particle_keeps_its_velocity_until_that_leads_outside() -> None:
    config, frames, speed = CollisionConfig(grid=7, speed=1.3), 211, np.array([0.4, -0.3])
    position, velocity = np.full((2, 1, 2), 3.0), np.full((2, 1, 2), 1e-6)
    position[:, 0, 0], velocity[:, 0, 0] = (1.7, 2.9), speed  # the other particle hardly moves, and draws nothing
    path, after, velocity_after = move(position, velocity, frames, config, np.random.default_rng(5))
    random, here, legs = np.random.default_rng(5), position[:, 0, 0], 1
    for frame in range(frames):
        while not ((here + speed > 0) & (here + speed < 6)).all():
            speed, legs = 1.3 * random.standard_normal(2), legs + 1
        here = here + speed
        np.testing.assert_allclose(path[:, frame, 0, 0], here)
    np.testing.assert_allclose(after[:, 0, 0], here)
    np.testing.assert_allclose(velocity_after[:, 0, 0], speed)
    assert legs > 100


def test_rates_are_those_of_the_rules() -> None:
    config, random = CollisionConfig(), np.random.default_rng(2)
    world = first_world(config, 512, random)
    frames, _ = draw_frames(world, 1000, 0, config, random)
    changed = (frames.color[1:] != frames.color[:-1]).mean()
    assert changed == pytest.approx(0.05 * 4 / 5, rel=0.03)
    present = 5 * frames.color[..., 0] + frames.color[..., 1]
    assert (frames.asked == present).mean() == pytest.approx(0.4 + 0.6 / 25, rel=0.01)
    assert np.bincount(frames.asked.ravel(), minlength=25) / frames.asked.size == pytest.approx(1 / 25, rel=0.15)
    met = (frames.cell[..., 0] == frames.cell[..., 1]).all(0)
    assert met.mean() == pytest.approx(0.0041, rel=0.1)
    assert (frames.collided[met & (frames.asked == present)] == np.nonzero(met & (frames.asked == present))[0]).all()


@pytest.mark.parametrize(("easy", "errors"), [("present", (60.3, 49.1, 32.5)), ("latest", (36.6, 29.6, 19.6))])
def test_perfect_recall_within_a_span_errs_as_in_long_worlds(easy: str, errors: tuple[float, ...]) -> None:
    """Figures of benchmarks/collision_world.py; pairs not seen in the first 64k tokens are beyond any span."""
    config, random, warm_up = CollisionConfig(easy=easy), np.random.default_rng(3), 2**16 // FRAME
    world = first_world(config, 64, random)
    _, world = draw_frames(world, warm_up, 0, config, random)
    frames, _ = draw_frames(world, warm_up, warm_up, config, random)
    age = FRAME * (np.arange(warm_up, 2 * warm_up)[:, None] - frames.collided)
    for span, error in zip((2**14, 2**15, 2**16), errors, strict=True):
        forgotten = (frames.collided < 0) | (age >= span)
        assert 75 * forgotten.mean() == pytest.approx(error, abs=2)


def test_a_frame_is_drawn_with_its_particles_and_its_question() -> None:
    config = CollisionConfig(grid=6, colors=2)
    tokens = np.array([1, 6 + 2, 12 + 0, 4, 6 + 5, 12 + 1, 14 + 1, 14 + 0])
    picture = draw_frame(tokens, config, cell=8)
    assert picture.shape == (64, 48, 3)
    red, cyan = [255, 50, 50], [50, 255, 255]
    assert picture[8, 16].tolist() == picture[15, 23].tolist() == red  # the whole cell
    assert picture[36, 44].tolist() == cyan and picture[32, 40].tolist() != cyan  # its middle
    assert picture[56, 0].tolist() == cyan and picture[60, 12].tolist() == red


def episodes(stream: Stream, steps: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Whole episodes as their rows have them; what a row has before its first is not scored."""
    window, found = stream.read(steps * (count + 1)), []
    for tokens, targets, resets in zip(*window, strict=True):
        begins = np.flatnonzero(resets)
        if len(begins) == count + 2:  # began within an episode
            assert (targets[: begins[1]] == IGNORED).all()
            begins = begins[1:]
        assert (np.diff(begins) == steps).all()
        for begin in begins[:count]:
            part = slice(begin, begin + steps)
            found.append((tokens[part].tolist(), targets[part].tolist()))
    return found


def test_copies_are_what_was_to_be_copied() -> None:
    config = CopyConfig(length=5, distractors=19, symbols=7, distractor_symbols=3)
    stream = Copy(config, batch_size=4, seed=5)
    assert (stream.vocabulary, stream.classes) == (11, 7)
    found = episodes(stream, 29, 3)
    assert len(found) == 12
    for tokens, targets in found:
        copied = tokens[:5]
        assert max(copied) < 7
        assert {*tokens[5:24]} == {7, 8, 9}
        assert tokens[24:] == [10, *copied[:-1]]
        assert targets == [IGNORED] * 24 + copied
    assert len({tuple(tokens) for tokens, _ in found}) == len(found)


def test_questions_of_recall_are_answered_by_their_key() -> None:
    config = AssociativeRecallConfig(pairs=5, steps=29, keys=11, values=7, fillers=3)
    stream = AssociativeRecall(config, batch_size=4, seed=5)
    assert (stream.vocabulary, stream.classes) == (21, 7)
    found = episodes(stream, 29, 3)
    assert len(found) == 12
    for tokens, targets in found:
        known: dict[int, int] = {}
        asked = []
        for step, (token, target) in enumerate(zip(tokens, targets, strict=True)):
            if token < 11 and token not in known:
                assert step < 14
                known[token] = tokens[step + 1] - 11
                assert 0 <= known[token] < 7
            elif token < 11:
                assert step >= 14
                assert target == known[token]
                asked.append(token)
                continue
            assert target == IGNORED
        assert sorted(asked) == sorted(known)
        assert len(known) == 5


def test_questions_come_at_all_times() -> None:
    window = Copy(CopyConfig(length=5, distractors=390), batch_size=80).read(800)
    assert (window.targets[:, 400:] != IGNORED).any(0).all()
