"""Copying and associative recall: episodes whose answers stood long before the question.

Copy (paper, appendix): tokens, many distractors, then the tokens again.  Associative recall (MQAR; Arora et al., 2024):
keys with their values, then the keys alone, each to be answered by its value.

Episodes follow one another, each beginning with a reset.  The rows of a batch are spread evenly over the length of an
episode, so that every window has questions in some of them.  So a row begins within an episode, whose questions are not
scored, since what they ask for was never shown.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..checks import EXACT, check_whole
from .streams import IGNORED, Window, check_state


class EpisodeStream(ABC):
    """Episodes of E steps, one after the other in every row (`streams.Stream`).

    Episode n of all rows is drawn from the seed and n alone, so the state is the number of steps read.
    """

    vocabulary: int
    classes: int

    def __init__(self, steps: int, batch_size: int, seed: int) -> None:
        self.steps = steps
        """Of an episode (E)."""
        self.batch_size = check_whole("batch_size", batch_size, at_least=1)
        self._seed = check_whole("seed", seed, at_least=0)
        self._begin = steps * np.arange(self.batch_size) // self.batch_size
        self._read = 0
        self._numbers, self._episodes = range(0), list[np.ndarray]()

    @abstractmethod
    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of an episode in every row, int64 [B, E]."""

    def read(self, steps: int) -> Window:
        """The next steps of every row."""
        check_whole("steps", steps, at_least=1)
        time = self._begin[:, None] + np.arange(self._read, self._read + steps)
        first, last = int(time[0, 0]) // self.steps, int(time[-1, -1]) // self.steps
        if (numbers := range(first, last + 1)) != self._numbers:
            drawn = [self.draw(np.random.default_rng([self._seed, number])) for number in numbers]
            self._numbers, self._episodes = numbers, [np.concatenate(parts, 1) for parts in zip(*drawn, strict=True)]
        tokens, targets = (np.take_along_axis(part, time - first * self.steps, 1) for part in self._episodes)
        incomplete = (time < self.steps) & (self._begin[:, None] > 0)
        resets = time % self.steps == 0
        resets[:, 0] |= self._read == 0
        self._read += steps
        return Window(tokens, np.where(incomplete, IGNORED, targets), resets)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Steps read of every row."""
        return {"read": np.array(self._read)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict` (`streams.Stream`)."""
        check_state(state, self.state_dict(), {"read": (0, EXACT)})
        self._read = int(state["read"])


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    """Size of a copying task."""

    length: int = 10
    """Tokens to reproduce."""
    distractors: int = 1000
    """Steps between the last of them and the question."""
    symbols: int = 16
    """Different tokens to reproduce."""
    distractor_symbols: int = 16
    """Different distractors, none of which is to be reproduced."""

    def __post_init__(self) -> None:
        for name in ("length", "symbols", "distractor_symbols"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("distractors", self.distractors, at_least=0)


class Copy(EpisodeStream):
    """Reproduce `length` random tokens after `distractors` others.

    An episode: the tokens, the distractors, "go", and the tokens again but for the last.  From "go" on, each step is to
    predict the next of the tokens, as a language model continues a text.
    """

    def __init__(self, config: CopyConfig, *, batch_size: int, seed: int = 0) -> None:
        super().__init__(2 * config.length + config.distractors, batch_size, seed)
        self.config = config
        self.go = config.symbols + config.distractor_symbols
        """The token that asks for the copy."""
        self.vocabulary, self.classes = self.go + 1, config.symbols

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of an episode in every row, int64 [B, E]."""
        config = self.config
        copied = random.integers(config.symbols, size=(self.batch_size, config.length))
        others = random.integers(config.symbols, self.go, (self.batch_size, config.distractors))
        go = np.full((self.batch_size, 1), self.go)
        targets = np.full((self.batch_size, self.steps), IGNORED)
        targets[:, -config.length :] = copied
        return np.concatenate([copied, others, go, copied[:, :-1]], 1), targets


@dataclass(frozen=True, kw_only=True)
class AssociativeRecallConfig:
    """Size of an associative recall task."""

    pairs: int = 8
    """Keys with a value in an episode (K); no two keys are the same."""
    steps: int = 128
    """Of an episode (T), at least four for each pair."""
    keys: int = 64
    """Different keys to choose from."""
    values: int = 64
    """Different values to choose from."""
    fillers: int = 16
    """Different tokens for the steps that are neither pair nor question."""

    def __post_init__(self) -> None:
        for name in ("pairs", "values", "fillers"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("keys", self.keys, at_least=self.pairs)
        check_whole("steps", self.steps, at_least=4 * self.pairs)


class AssociativeRecall(EpisodeStream):
    """Answer keys by the values that stood beside them (MQAR).

    In the first half of an episode pairs stand at random places, each a key and its value on two successive steps.  In
    the second half every key is asked once, in random order at random places: the target of that step is its value.
    """

    def __init__(self, config: AssociativeRecallConfig, *, batch_size: int, seed: int = 0) -> None:
        super().__init__(config.steps, batch_size, seed)
        self.config = config
        self.vocabulary, self.classes = config.keys + config.values + config.fillers, config.values

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of an episode in every row, int64 [B, E]."""
        config, slots = self.config, self.steps // 4  # of two steps each
        keys = self._choose(random, config.keys)
        values = random.integers(config.values, size=keys.shape)
        written = 2 * self._choose(random, slots)
        asked = 2 * slots + self._choose(random, self.steps - 2 * slots)
        tokens = random.integers(config.keys + config.values, self.vocabulary, (self.batch_size, self.steps))
        targets = np.full(tokens.shape, IGNORED)
        np.put_along_axis(tokens, written, keys, 1)
        np.put_along_axis(tokens, written + 1, config.keys + values, 1)
        np.put_along_axis(tokens, asked, keys, 1)
        np.put_along_axis(targets, asked, values, 1)
        return tokens, targets

    def _choose(self, random: np.random.Generator, count: int) -> np.ndarray:
        """K different numbers below `count` in every row and in random order, [B, K]."""
        return random.permuted(np.tile(np.arange(count), (self.batch_size, 1)), axis=1)[:, : self.config.pairs]
