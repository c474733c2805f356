"""The bytes of any file as a language model's text (paper, character-level language modelling: enwik8, PG-19).

The file is divided into train, valid and test by shares of its bytes, in that order, and a split into `batch_size`
contiguous streams.  The target of a byte is the byte after it.  As in the paper's training, reading begins at a random
offset, the same in all streams, and at their end anew at another one, with a reset.  So the last bytes of a stream are
read more often than the first.

The file is mapped into memory, so that it may be larger than that.  It is read once beforehand, for a digest by which a
training that goes on knows its data.
"""

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..checks import EXACT, check_bool, check_choice, check_share, check_whole
from .streams import IGNORED, Window, check_state, join

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A file and how it is divided."""

    path: str
    """Of any file; what it holds is read byte by byte."""
    shares: tuple[float, ...] = (0.9, 0.05, 0.05)
    """Of the file's bytes for train, valid and test, in that order."""
    separator: int | None = None
    """The byte that ends a document, which the file must hold: the step after it is a reset.  None: memory goes on
    through all documents."""

    def __post_init__(self) -> None:
        if not isinstance(self.shares, tuple) or len(self.shares) != len(SPLITS):
            raise ValueError(f"Expect `shares` to be one for each of {', '.join(SPLITS)}, actual: {self.shares}")
        for share in self.shares:
            check_share("shares", share)
        if sum(self.shares) > 1 + 1e-9:
            raise ValueError(f"Expect `shares` to sum to at most 1, actual: {self.shares}")
        if self.separator is not None:
            check_whole("separator", self.separator, at_least=0, at_most=255)


class Text:
    """A split of a file as streams of bytes (`streams.Stream`).

    With `whole`, for evaluation, the split is read once, from its beginning: its bytes but the first are each scored
    once, what lies beyond is 0 and IGNORED, and `ended` tells that nothing is left to score.

    Raises ValueError where the file is missing or empty, lacks the separator, or has too few bytes in this split.
    """

    vocabulary = classes = 256

    def __init__(
        self, config: TextConfig, *, batch_size: int, split: str = "train", seed: int = 0, whole: bool = False
    ) -> None:
        self.config = config
        self.batch_size = check_whole("batch_size", batch_size, at_least=1)
        self.whole = check_bool("whole", whole)
        self._seed = check_whole("seed", seed, at_least=0)
        self._bytes = split_of(config, split)
        self._content = content_of(Path(config.path))
        scored = len(self._bytes) - 1
        if scored < 1:
            said = f"leave at least 2 bytes of {config.path} for {split}"
            raise ValueError(f"Expect `shares` to {said}, actual: {len(self._bytes)}, by {config.shares}")
        if self.batch_size > scored:
            raise ValueError(
                f"Expect `batch_size` to be less than the {len(self._bytes)} bytes of {config.path} for {split}, "
                f"actual: {batch_size}"
            )
        self._length = -(-scored // self.batch_size) if whole else scored // self.batch_size
        self._begin = self._length * np.arange(self.batch_size)
        self._pass = 0
        self._position = self._first

    @property
    def _first(self) -> int:
        """The offset at which the present pass began."""
        return 0 if self.whole else int(np.random.default_rng([self._seed, self._pass]).integers(self._length))

    @property
    def ended(self) -> bool:
        """Whether all of the split has been read, which happens to `whole` alone."""
        return self._position == self._length

    def read(self, steps: int) -> Window:
        """The next steps of every stream."""
        left = check_whole("steps", steps, at_least=1)
        if self.whole:
            window = self._window(left)
            self._position = min(self._position + left, self._length)
            return window
        windows = []
        while left:
            taken = min(left, self._length - self._position)
            windows.append(self._window(taken))
            self._position += taken
            left -= taken
            if self._position == self._length:
                self._pass += 1
                self._position = self._first
        return join(windows)

    def _window(self, steps: int) -> Window:
        """The steps from the present position on."""
        offset = self._position + np.arange(-1, steps + 1)  # with the byte before and the one after
        place = self._begin[:, None] + offset
        last = len(self._bytes) - 1
        found = self._bytes[place.clip(0, last)].astype(np.int64)
        scored = (offset[1:-1] < self._length) & (place[:, 1:-1] < last)
        resets = found[:, :-2] == (IGNORED if self.config.separator is None else self.config.separator)
        resets[:, 0] |= self._position == self._first
        return Window(np.where(scored, found[:, 1:-1], 0), np.where(scored, found[:, 2:], IGNORED), resets & scored)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Number of the pass through the streams, offset within them, bytes of the split and digest of the file."""
        numbers = {"pass": self._pass, "position": self._position, "bytes": len(self._bytes)}
        return {name: np.array(number) for name, number in numbers.items()} | {"content": self._content.copy()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict` (`streams.Stream`)."""
        self.check_content(state)
        state = {"content": self._content} | dict(state)
        ranges = {
            "pass": (0, 0 if self.whole else EXACT),
            "position": (0, self._length if self.whole else self._length - 1),
            "bytes": (len(self._bytes), len(self._bytes)),
        }
        check_state(state, self.state_dict(), ranges)
        self._pass, self._position = int(state["pass"]), int(state["position"])

    def check_content(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError where a `state_dict` is of a file with other bytes.

        One of before their digest was stored is taken for one of the same.
        """
        if not np.array_equal(state.get("content", self._content), self._content):
            said = "hold the bytes that were trained on"
            raise ValueError(f"Expect `path` to {said}, actual: {self.config.path}, which holds others")


def split_of(config: TextConfig, split: str) -> np.ndarray:
    """The bytes of one split, mapped and not read.  Raises ValueError where there is no file or nothing in it."""
    check_choice("split", split, SPLITS)
    path = Path(config.path)
    if not path.is_file():
        raise ValueError(f"Expect `path` to be a file, actual: {config.path}, which is not")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"Expect `path` to be a file that holds text, actual: {config.path}, which is empty")
    if config.separator is not None:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(bytes([config.separator])) < 0:
                said = f"{config.separator}, which is not in it"
                raise ValueError(f"Expect `separator` to be a byte of {config.path}, actual: {said}")
    ends = np.rint(size * np.cumsum([0, *config.shares])).astype(int)
    number = SPLITS.index(split)
    return np.asarray(np.memmap(path, np.uint8, mode="r"))[ends[number] : ends[number + 1]]


def content_of(path: Path) -> np.ndarray:
    """SHA-256 of a file, uint8 [32]."""
    found = path.stat()
    return np.frombuffer(_digest(path, found.st_size, found.st_mtime_ns), np.uint8)


@lru_cache(maxsize=4)
def _digest(path: Path, size: int, changed: int) -> bytes:
    """Of a file that has this size and was last changed then, so that streams of the same file read it once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
