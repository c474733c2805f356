"""What tokens mean to people, and the stretches of them that are looked at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expirespan.sequences import (
    AssociativeRecall,
    AssociativeRecallConfig,
    Collision,
    CollisionConfig,
    Copy,
    CopyConfig,
    Text,
    TextConfig,
    Window,
)
from expirespan.sequences.collision_meaning import color_names, happenings, token_names
from expirespan.sequences.episode import read_episode
from expirespan.sequences.meaning import byte_labels, meaning, pictures


def said(stream: Any, steps: int) -> tuple[Window, Any]:
    window = stream.read(steps)
    return window, meaning(stream, window)


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (b"a b\n\t", ["a", " ", "b", "\n", "\t"]),
        ("né".encode(), ["n", "", "é"]),
        (b"\xffn\xc3", ["\\xff", "n", "\\xc3"]),
        (b"\x00\r", ["\\x00", "\\r"]),
        ("\u202eb".encode(), ["", "", "\\u202e", "b"]),
        (b"", []),
    ],
)
def test_bytes_are_shown_as_they_are_or_escaped(data: bytes, labels: list[str]) -> None:
    assert byte_labels(data) == labels


def test_labels_of_a_text_joined_are_the_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("déjà <b>vu</b>\n".encode() * 9)
    stream = Text(TextConfig(path=str(tmp_path / "text")), batch_size=1, split="train", whole=True)
    window, found = said(stream, 37)
    read = window.tokens[0].astype(np.uint8).tobytes()
    assert "".join(found.labels[0]) == read.decode()
    assert len(found.classes) == 256 and found.classes[65] == "A" and found.classes[255] == "\\xff"
    assert not found.relevant.any() and not (found.events != "").any()


def test_the_pairs_of_associative_recall_are_relevant_and_its_questions_events() -> None:
    config = AssociativeRecallConfig(pairs=3, steps=17, keys=5, values=7, fillers=2)
    window, found = said(AssociativeRecall(config, batch_size=1), 17)
    tokens, events = window.tokens[0], found.events[0]
    keys, questions = np.flatnonzero(events == "key"), np.flatnonzero(events == "question")
    assert sorted(tokens[keys]) == sorted(tokens[questions]) and len(keys) == 3
    assert (events[keys + 1] == "value").all()
    assert np.flatnonzero(found.relevant[0]).tolist() == sorted([*keys, *(keys + 1)])
    for key in keys:
        asked = questions[tokens[questions] == tokens[key]][0]
        assert found.labels[0, key] == f"k{tokens[key]} " == found.labels[0, asked]
        assert found.labels[0, key + 1] == f"{found.classes[window.targets[0, asked]]} "


def test_what_is_to_be_copied_is_relevant() -> None:
    window, found = said(Copy(CopyConfig(length=3, distractors=5, symbols=4, distractor_symbols=2), batch_size=1), 11)
    assert found.events[0].tolist() == ["to copy"] * 3 + [""] * 5 + ["question"] * 3
    assert np.flatnonzero(found.relevant[0]).tolist() == [0, 1, 2]
    assert found.labels[0, 8] == "go " and found.labels[0, 9] == f"{found.classes[window.targets[0, 8]]} "


COLLISION = CollisionConfig(grid=3, colors=2)


def frame(cells: tuple[int, int, int, int], colors: tuple[int, int], asked: tuple[int, int]) -> list[int]:
    """Rows and columns of both particles, their colours and those asked for, as eight tokens."""
    row0, column0, row1, column1 = cells
    first, second = (6 + color for color in colors)
    return [row0, 3 + column0, first, row1, 3 + column1, second, *(8 + color for color in asked)]


def test_collisions_that_are_asked_for_before_the_next_of_their_colours_are_relevant() -> None:
    tokens = np.array(
        [
            frame((1, 1, 1, 1), (0, 1), (0, 1))  # collides again in the next frame: nothing later needs it
            + frame((2, 1, 2, 1), (0, 1), (1, 1))  # asked for in the last frame
            + frame((0, 0, 0, 1), (1, 1), (1, 1))  # no collision
            + frame((0, 2, 0, 2), (1, 0), (0, 0))  # never asked for: the order of colours counts
            + frame((0, 2, 2, 2), (1, 0), (0, 1))
            + [1, 4, 6]  # cut off
        ]
    )
    relevant, events = happenings(tokens, COLLISION)
    assert np.flatnonzero(relevant[0]).tolist() == list(range(8, 16))
    names = ["collision red/cyan", "collision red/cyan", "", "collision cyan/red", ""]
    assert events[0].tolist() == [name for name in names for _ in range(8)] + ["", "", ""]


def test_frames_of_a_collision_are_lines_of_text_and_pictures() -> None:
    stream = Collision(CollisionConfig(), batch_size=1)
    window, found = said(stream, 19)
    first, second, rest = "".join(found.labels[0]).split("\n")
    assert [word[0] for word in first.split()[:5:3]] == ["r", "r"] and first.endswith("?") and second.count("?") == 2
    assert len(rest.split()) == 3 and found.classes[0] == "top left"
    shown = pictures(stream, window.tokens[0])
    assert shown is not None and len(shown) == 19 and shown.shape[1] <= 72
    assert (shown[:8] == shown[0]).all() and (shown[8] != shown[0]).any() and (shown[18] == shown[8]).all()
    assert pictures(stream, window.tokens[0, :7]) is None


def test_colors_have_different_names() -> None:
    for colors in range(1, 15):
        assert len(set(color_names(colors))) == colors
    assert len(token_names(CollisionConfig())) == 2 * 16 + 2 * 5


class Numbers:
    """Somebody's own stream, which says nothing of its tokens."""

    vocabulary, classes, batch_size = 5, 3, 1


def test_tokens_of_another_stream_are_numbers() -> None:
    tokens = np.array([[4, 0, 2]])
    found = meaning(Numbers(), Window(tokens, tokens - 5, tokens < 0))
    assert "".join(found.labels[0]) == "4 0 2 " and found.classes == ("0", "1", "2") and not found.relevant.any()


def test_an_episode_ends_at_a_reset_or_is_cut_off() -> None:
    def copy() -> Copy:
        return Copy(CopyConfig(length=2, distractors=3), batch_size=1)

    for steps, length, complete in ((7, 7, True), (50, 7, True), (6, 6, False)):
        found = read_episode(copy(), steps)
        assert (found.window.tokens.shape, found.complete) == ((1, length), complete)
        assert np.flatnonzero(found.window.resets[0]).tolist() == [0]
    with pytest.raises(ValueError, match="`stream` to have 1 row, actual: 2"):
        read_episode(Copy(CopyConfig(), batch_size=2), 3)


def test_an_episode_of_a_text_ends_with_the_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(bytes(range(20)))

    def text() -> Text:
        return Text(TextConfig(path=str(tmp_path / "text"), shares=(1.0, 0.0, 0.0)), batch_size=1, whole=True)

    for steps, skipped, first, length, complete in ((7, 0, 0, 7, False), (7, 14, 14, 5, True), (19, 0, 0, 19, True)):
        found = read_episode(text(), steps, skipped)
        assert found.window.tokens[0].tolist() == list(range(first, first + length)) and found.complete == complete
        assert (found.window.targets == found.window.tokens + 1).all()
    with pytest.raises(ValueError, match="begins within the data, actual: one after 19 steps"):
        read_episode(text(), 3, 19)
