"""One recorded episode as one file: a compressed NumPy archive without pickles, which `numpy.load(path)` opens.

Arrays of an episode of T steps (what each means stands in trace.py):

- `format` (the text "expirespan episode") and `version` (1);
- `relevant` bool [T], `rewards` float32 [T], `actions` [T, ...], `values` float32 [T], `episode_end` text;
- `events` text [T], `frames` uint8 [T, height, width, 3 or 1] (grey) and `action_names` text [actions], where there are
  any;
- for each layer n from 1 on, `layer_n_span` float32 [T], `layer_n_deleted` int32 [T], `layer_n_evicted` bool [T],
  `layer_n_live` int32 [T], and where attention was recorded `layer_n_attention_query` int32 [N],
  `layer_n_attention_memory` int32 [N], `layer_n_attention_weight` float32 [N].
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .record import AttentionRecord, EpisodeTrace, LayerRecord

FORMAT, VERSION = "expirespan episode", 1
MOST_BYTES = 2**31
"""Archives that claim to unpack to more are refused: a few kilobytes can claim terabytes."""

Arrays = dict[str, np.ndarray]


def save(trace: EpisodeTrace, path: str | os.PathLike[str]) -> None:
    """Write one episode to a file; an existing one is replaced only once the new one is whole."""
    target = Path(path)
    unfinished = target.with_name(target.name + ".part")
    unfinished.write_bytes(to_bytes(trace))
    unfinished.replace(target)


def load(path: str | os.PathLike[str]) -> EpisodeTrace:
    """The episode of a file.  Raises ValueError where the file is damaged or no recorded episode."""
    return from_bytes(Path(path).read_bytes(), str(path))


def to_bytes(trace: EpisodeTrace) -> bytes:
    """One episode as the contents of a file.  Raises ValueError where an array holds Python objects."""
    arrays, file = to_arrays(trace), io.BytesIO()
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"Expect `{name}` of a recorded episode to hold numbers or text, actual: {array.dtype}")
    # Level 3 takes half the time of the usual 6, for frames a quarter larger.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return file.getvalue()


def from_bytes(data: bytes, name: str = "data", *, frames: bool = True) -> EpisodeTrace:
    """The episode of a file's contents, without its frames if `frames` is False: they are most of it.

    Raises ValueError, which speaks of `name`, where the contents are not an episode.
    """
    with _reading(data, name) as archive:
        return from_arrays({key: archive[key] for key in archive.files if frames or key != "frames"})


def frames_from_bytes(data: bytes, name: str = "data") -> np.ndarray | None:
    """The frames alone, None where there are none.  Raises ValueError as `from_bytes` does."""
    with _reading(data, name) as archive:
        return _read_frames({key: archive[key] for key in archive.files if key in ("relevant", "frames")})


def has_frames(data: bytes) -> bool:
    """Whether the episode of these contents, which must be one's, has frames."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return "frames.npy" in archive.namelist()


@contextmanager
def _reading(data: bytes, name: str) -> Iterator[Any]:
    """An open archive; every error in reading it becomes a ValueError that speaks of `name`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, more than {MOST_BYTES}")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            yield archive
    except (ValueError, TypeError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"Expect `{name}` to be a whole recorded episode, actual: {error}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"Expect `{name}` to be a whole NumPy archive (.npz), actual: {error}") from error


def to_arrays(trace: EpisodeTrace) -> Arrays:
    """The arrays of the file, by name."""
    arrays: Arrays = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "relevant": trace.relevant.astype(np.bool_),
        "rewards": trace.rewards.astype(np.float32),
        "actions": trace.actions,
        "values": trace.values.astype(np.float32),
        "episode_end": np.array(trace.episode_end),
    }
    if trace.action_names:
        arrays["action_names"] = np.array(trace.action_names)
    if trace.events is not None:
        arrays["events"] = trace.events
    if trace.frames is not None:
        arrays["frames"] = trace.frames
    for number, layer in enumerate(trace.layers, 1):
        start = f"layer_{number}"
        arrays[f"{start}_span"] = layer.span.astype(np.float32)
        arrays[f"{start}_deleted"] = layer.deleted.astype(np.int32)
        arrays[f"{start}_evicted"] = layer.evicted.astype(np.bool_)
        arrays[f"{start}_live"] = layer.live.astype(np.int32)
        if layer.attention is not None:
            arrays[f"{start}_attention_query"] = layer.attention.query.astype(np.int32)
            arrays[f"{start}_attention_memory"] = layer.attention.memory.astype(np.int32)
            arrays[f"{start}_attention_weight"] = layer.attention.weight.astype(np.float32)
    return arrays


def from_arrays(arrays: Arrays) -> EpisodeTrace:
    """The episode of a file's arrays.  Raises ValueError where they do not follow the format, KeyError for a gap."""
    if "format" not in arrays or str(arrays["format"]) != FORMAT:
        raise ValueError("an archive of something else")
    if int(arrays["version"]) != VERSION:
        raise ValueError(f"version {int(arrays['version'])} of the format where {VERSION} can be read")
    steps = len(arrays["relevant"])
    if not steps:
        raise ValueError("an episode of 0 steps")
    count = 0
    while f"layer_{count + 1}_span" in arrays:
        count += 1
    return EpisodeTrace(
        layers=tuple(_read_layer(arrays, f"layer_{number}", steps) for number in range(1, count + 1)),
        relevant=_checked(arrays, "relevant", "b", (steps,)),
        rewards=_checked(arrays, "rewards", "f", (steps,)),
        actions=_checked(arrays, "actions", "iufb", (steps, *arrays["actions"].shape[1:])),
        action_names=_read_names(arrays),
        values=_checked(arrays, "values", "f", (steps,)),
        events=_checked(arrays, "events", "U", (steps,)) if "events" in arrays else None,
        frames=_read_frames(arrays),
        episode_end=str(arrays["episode_end"]),
    )


def _read_layer(arrays: Arrays, start: str, steps: int) -> LayerRecord:
    deleted = _checked(arrays, f"{start}_deleted", "i", (steps,))
    if (deleted <= np.arange(steps)).any() or (deleted > steps).any():
        raise ValueError(f"{start}_deleted with steps before the memory was written or after the end")
    return LayerRecord(
        span=_checked(arrays, f"{start}_span", "f", (steps,)),
        deleted=deleted,
        evicted=_checked(arrays, f"{start}_evicted", "b", (steps,)),
        live=_checked(arrays, f"{start}_live", "i", (steps,)),
        attention=_read_attention(arrays, f"{start}_attention", steps),
    )


def _read_attention(arrays: Arrays, start: str, steps: int) -> AttentionRecord | None:
    if f"{start}_query" not in arrays:
        return None
    pairs = arrays[f"{start}_query"].shape[:1]
    query, memory = (_checked(arrays, f"{start}_{name}", "i", pairs) for name in ("query", "memory"))
    if (memory < 0).any() or (memory > query).any() or (query >= steps).any() or (np.diff(query) < 0).any():
        raise ValueError(f"{start} with pairs of steps that can't be, or out of order")
    return AttentionRecord(query=query, memory=memory, weight=_checked(arrays, f"{start}_weight", "f", pairs))


def _read_frames(arrays: Arrays) -> np.ndarray | None:
    if "frames" not in arrays:
        return None
    channels = 1 if arrays["frames"].shape[3:] == (1,) else 3
    return _checked(arrays, "frames", "u", (len(arrays["relevant"]), *arrays["frames"].shape[1:3], channels))


def _read_names(arrays: Arrays) -> tuple[str, ...]:
    if "action_names" not in arrays:
        return ()
    return tuple(_checked(arrays, "action_names", "U", arrays["action_names"].shape[:1]).tolist())


def _checked(arrays: Arrays, name: str, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of that name, if it is of one of these kinds (NumPy's letters) and of that shape."""
    array = arrays[name]
    if array.dtype.kind not in kinds or array.shape != shape:
        raise ValueError(f"{name} of type {array.dtype} and shape {array.shape} where the shape is {shape}")
    return array
