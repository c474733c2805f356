"""One recorded episode as one file: a compressed NumPy archive without pickles, which `numpy.load(path)` opens.

Arrays of an episode of T steps (what each means stands in trace.py):

- `format` (the text "expirespan episode") and `version` (1);
- `relevant` bool [T], `rewards` float32 [T], `actions` [T, ...], `values` float32 [T], `episode_end` text;
- `events` text [T], `frames` uint8 [T, height, width, 3 or 1] (grey) and `action_names` text [actions], where there are
  any;
- `labels` text [T] where steps are tokens, `value_name` text where `values` are not an agent's;
- for each layer n from 1 on, `layer_n_span` float32 [T], `layer_n_deleted` int32 [T], `layer_n_evicted` bool [T],
  `layer_n_live` int32 [T], and where attention was recorded `layer_n_attention_query` int32 [N],
  `layer_n_attention_memory` int32 [N], `layer_n_attention_weight` float32 [N].
"""

import io
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .record import AttentionRecord, EpisodeTrace, LayerRecord

FORMAT, VERSION = "expirespan episode", 1
MOST_BYTES = 2**31
"""Archives that claim to unpack to more are refused: a few kilobytes can claim terabytes."""

OF_STEPS = {"relevant": "b", "rewards": "f", "values": "f"}
"""Arrays with a number for each step, and their kinds (NumPy's letters)."""
OF_LAYERS = {"span": "f", "deleted": "i", "evicted": "b", "live": "i"}
"""The same of each layer."""
OF_ATTENTION = {"query": "i", "memory": "i", "weight": "f"}
"""Arrays of a layer with a number for each pair of steps."""
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
        return archive["frames"] if "frames" in archive.files else None


def has_frames(data: bytes) -> bool:
    """Whether the episode of these contents, which must be one's, has frames."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return "frames.npy" in archive.namelist()


@contextmanager
def _reading(data: bytes, name: str) -> Iterator[Any]:
    """An open archive whose arrays have the right names, types and shapes; errors become a ValueError about `name`.

    They are known from the arrays' headers, before anything is unpacked.
    """
    try:
        check_arrays(_headers(data))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            yield archive
    except (ValueError, TypeError, LookupError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"Expect `{name}` to be a whole recorded episode, actual: {error}") from error
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damaged bytes
        raise ValueError(f"Expect `{name}` to be a whole NumPy archive (.npz), actual: {error}") from error


class Header(NamedTuple):
    """What stands before an array's numbers."""

    dtype: np.dtype
    shape: tuple[int, ...]


def _headers(data: bytes) -> dict[str, Header]:
    """The headers of an archive's arrays, by name.  Raises ValueError where they are of other sizes than the arrays."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if (size := sum(entry.file_size for entry in entries)) > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, more than {MOST_BYTES}")
        for entry in entries:
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                if math.prod(shape) * dtype.itemsize + file.tell() != entry.file_size:
                    raise ValueError(f"{entry.filename} of {dtype} {list(shape)} in {entry.file_size} bytes")
                found[entry.filename.removesuffix(".npy")] = Header(dtype, shape)
    if len(found) != len(entries):
        raise ValueError("two arrays of one name")
    return found


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
    if trace.labels is not None:
        arrays["labels"] = trace.labels
    if trace.value_name != EpisodeTrace.value_name:
        arrays["value_name"] = np.array(trace.value_name)
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


def check_arrays(arrays: Mapping[str, Any]) -> None:
    """Raise ValueError where arrays, or their headers, are not those of an episode by name, type and shape."""
    if "format" not in arrays:
        raise ValueError("an archive of something else")
    expected = _expected(arrays)
    if other := arrays.keys() ^ expected.keys():
        raise ValueError(f"an archive with{'out' if other <= expected.keys() else ''} {', '.join(sorted(other))}")
    for name, (kinds, shape) in expected.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.shape != shape:
            raise ValueError(f"{name} of type {array.dtype} and shape {array.shape} where the shape is {shape}")


def _expected(arrays: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The kinds of type (NumPy's letters) and the shape of each array of an episode with such steps and layers."""
    shapes = {name: array.shape for name, array in arrays.items()}
    steps = shapes.get("relevant", (0,))
    if len(steps) != 1 or not steps[0]:
        raise ValueError(f"an episode of {' x '.join(map(str, steps)) or 'no'} steps")
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "format": ("U", ()),
        "version": ("i", ()),
        "episode_end": ("U", ()),
    }
    found["actions"] = ("iufb", (*steps, *shapes.get("actions", ())[1:]))
    found |= {name: (kinds, steps) for name, kinds in OF_STEPS.items()}
    texts = {"events": steps, "labels": steps, "value_name": ()}
    found |= {name: ("U", shape) for name, shape in texts.items() if name in arrays}
    if "frames" in arrays:
        found["frames"] = ("u", (*steps, *shapes["frames"][1:3], 1 if shapes["frames"][3:] == (1,) else 3))
    if "action_names" in arrays:
        found["action_names"] = ("U", shapes["action_names"][:1])
    for number in range(1, layers_of(arrays) + 1):
        found |= {f"layer_{number}_{part}": (kinds, steps) for part, kinds in OF_LAYERS.items()}
        start = f"layer_{number}_attention"
        if (pairs := shapes.get(f"{start}_query")) is not None:
            found |= {f"{start}_{part}": (kinds, pairs[:1]) for part, kinds in OF_ATTENTION.items()}
    return found


def layers_of(arrays: Mapping[str, Any]) -> int:
    """How many layers an archive is of."""
    count = 0
    while f"layer_{count + 1}_span" in arrays:
        count += 1
    return count


def from_arrays(arrays: Arrays) -> EpisodeTrace:
    """The episode of a file's arrays.  Raises ValueError where they do not follow the format."""
    check_arrays(arrays)
    if str(arrays["format"]) != FORMAT:
        raise ValueError("an archive of something else")
    if int(arrays["version"]) != VERSION:
        raise ValueError(f"version {int(arrays['version'])} of the format where {VERSION} can be read")
    for array in arrays.values():
        if array.dtype.kind == "U":
            array.tolist()  # fails where a number is no character's
    return EpisodeTrace(
        layers=tuple(_read_layer(arrays, f"layer_{number}") for number in range(1, layers_of(arrays) + 1)),
        relevant=arrays["relevant"],
        rewards=arrays["rewards"],
        actions=arrays["actions"],
        action_names=tuple(arrays["action_names"].tolist()) if "action_names" in arrays else (),
        values=arrays["values"],
        events=arrays.get("events"),
        frames=arrays.get("frames"),
        labels=arrays.get("labels"),
        value_name=str(arrays.get("value_name", EpisodeTrace.value_name)),
        episode_end=str(arrays["episode_end"]),
    )


def _read_layer(arrays: Arrays, start: str) -> LayerRecord:
    deleted, steps = arrays[f"{start}_deleted"], len(arrays["relevant"])
    if (deleted <= np.arange(steps)).any() or (deleted > steps).any():
        raise ValueError(f"{start}_deleted with steps before the memory was written or after the end")
    parts = {part: arrays[f"{start}_{part}"] for part in OF_LAYERS}
    return LayerRecord(**parts, attention=_read_attention(arrays, f"{start}_attention"))


def _read_attention(arrays: Arrays, start: str) -> AttentionRecord | None:
    if f"{start}_query" not in arrays:
        return None
    query, memory, weight = (arrays[f"{start}_{part}"] for part in OF_ATTENTION)
    steps = len(arrays["relevant"])
    if (memory < 0).any() or (memory > query).any() or (query >= steps).any() or (np.diff(query) < 0).any():
        raise ValueError(f"{start} with pairs of steps that can't be, or out of order")
    return AttentionRecord(query=query, memory=memory, weight=weight)
