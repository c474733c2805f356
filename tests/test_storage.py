"""Recorded episodes on disk: what is written is read, NumPy alone can open it, and anything else is refused."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expirespan.analysis import storage
from expirespan.analysis.record import EpisodeTrace, in_color
from recordings import made_up

STEPS = 7


def episode(full: bool = True) -> EpisodeTrace:
    return made_up(STEPS, 2, full=full)


@pytest.mark.parametrize("full", [True, False])
def test_what_is_written_is_read(full: bool, tmp_path: Path) -> None:
    trace = episode(full)
    storage.save(trace, tmp_path / "e.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]
    before, after = storage.to_arrays(trace), storage.to_arrays(storage.load(tmp_path / "e.npz"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], strict=True)


def test_grey_frames_are_stored_as_such_and_shown_in_color() -> None:
    frames = np.arange(STEPS * 6, dtype=np.uint8).reshape(STEPS, 2, 3, 1)
    read = storage.from_bytes(storage.to_bytes(replace(episode(), frames=frames))).frames
    assert read is not None and np.array_equal(read, frames)
    assert in_color(read).shape == (STEPS, 2, 3, 3) and (in_color(read) == frames).all()


def test_numpy_opens_it_without_pickles(tmp_path: Path) -> None:
    storage.save(episode(), tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        assert file["layer_1_deleted"].tolist() == episode().layers[0].deleted.tolist()
        assert str(file["format"]) == "expirespan episode"


def test_values_are_unknown_unless_recorded() -> None:
    trace = episode(full=False)
    bare = EpisodeTrace(layers=trace.layers, relevant=trace.relevant, rewards=trace.rewards, actions=trace.actions)
    assert bare.values.shape == (STEPS,) and np.isnan(bare.values).all()


def test_tokens_are_stored_with_their_text() -> None:
    labels = np.array(["é", "", "\n", " ", "\\x00", "<b>", "漢"])
    trace = replace(episode(), labels=labels, value_name="surprise in bits")
    read = storage.from_bytes(storage.to_bytes(trace))
    assert read.labels is not None and read.labels.tolist() == labels.tolist()
    assert read.value_name == "surprise in bits" and storage.from_bytes(changed()).value_name == "value"
    assert storage.from_bytes(changed()).labels is None


def no_character() -> np.ndarray:
    """Text whose numbers are beyond Unicode's last one."""
    return np.full(STEPS, 0x110000, dtype="<u4").view("<U1")


def changed(**arrays: np.ndarray | None) -> bytes:
    """An episode's file with some arrays replaced, or left out where None."""
    file, whole = io.BytesIO(), storage.to_arrays(episode()) | arrays
    np.savez(file, **{name: array for name, array in whole.items() if array is not None})  # pyright: ignore[reportArgumentType]  # its stubs take the arrays for its own argument
    return file.getvalue()


def of_objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, relevant=np.array([{}], dtype=object))
    return file.getvalue()


def bomb() -> bytes:
    """An archive whose directory claims three gigabytes."""
    data = bytearray(changed())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (3 * 10**9).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"NumPy archive \(\.npz\)"),
        (b"not an archive", r"NumPy archive \(\.npz\)"),
        (changed()[:900], r"NumPy archive \(\.npz\)"),
        (changed()[:900] + changed()[950:], "to be a whole"),
        (changed(format=None), "an archive of something else"),
        (changed(format=np.array("pictures")), "an archive of something else"),
        (changed(version=np.array(2)), "version 2 of the format where 1 can be read"),
        (changed(relevant=np.zeros(0, dtype=bool)), "an episode of 0 steps"),
        (changed(values=None), "values"),
        (changed(version=np.array([1, 1])), "to be a whole recorded episode"),
        (changed(relevant=np.array(True)), "to be a whole recorded episode"),
        (changed(rewards=np.zeros(3, dtype=np.float32)), r"rewards of type float32 and shape \(3,\)"),
        (changed(layer_2_span=np.array(["long"] * STEPS)), "layer_2_span of type <U4"),
        (changed(layer_1_deleted=np.zeros(STEPS, dtype=np.int32)), "layer_1_deleted with steps before"),
        (changed(layer_1_attention_memory=np.full(13, 6, dtype=np.int32)), "layer_1_attention with pairs of steps"),
        (changed(labels=np.zeros(STEPS, dtype=np.int32)), r"labels of type int32 and shape \(7,\)"),
        (changed(labels=np.array(["a"])), r"labels of type <U1 and shape \(1,\) where the shape is \(7,\)"),
        (changed(value_name=np.array(["a"])), "value_name of type <U1"),
        (changed(labels=no_character()), "to be a whole"),
        (changed(events=no_character()), "to be a whole"),
        (of_objects(), "to be a whole recorded episode"),
        (bomb(), "unpacks to"),
    ],
)
def test_anything_else_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        storage.load(path)
    assert str(path) in str(error.value)


def test_objects_are_not_written(tmp_path: Path) -> None:
    trace = episode()
    odd = EpisodeTrace(
        layers=trace.layers, relevant=trace.relevant, rewards=trace.rewards, actions=np.array([None] * STEPS)
    )
    with pytest.raises(ValueError, match="`actions` of a recorded episode to hold numbers or text, actual: object"):
        storage.save(odd, tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


def test_every_byte_may_be_damaged() -> None:
    """Damage gives the episode or a ValueError, never another error."""
    data = storage.to_bytes(episode(full=False))
    random = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= int(random.integers(1, 256))
        try:
            storage.from_bytes(bytes(damaged))
        except ValueError:
            pass
    assert zipfile.is_zipfile(io.BytesIO(data))
