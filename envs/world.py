"""What the tasks share: B worlds stepped at once in NumPy.

A world holds the rules of a task and knows nothing of Gymnasium's interfaces: it gets its two faces, a single
environment and a batched one (vector.py), around it, so the rules exist once.

A grid world is a stack of grids in MiniGrid's codes (object, colour, state) and an agent's place in each.

The view is centred on the agent, upright, and sees through walls: what is within `view_size // 2` cells is seen.
"""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

from ..checks import check_whole

EMPTY = (OBJECT_TO_IDX["empty"], 0, 0)
WALL = (OBJECT_TO_IDX["wall"], COLOR_TO_IDX["grey"], 0)
DOOR, CLOSED = OBJECT_TO_IDX["door"], STATE_TO_IDX["closed"]
BALL, BOX = OBJECT_TO_IDX["ball"], OBJECT_TO_IDX["box"]
COLORS = ("red", "blue", "green", "yellow", "purple", "grey")
"""Colours in the order in which a task takes them."""
COLOR_CODES = np.array([COLOR_TO_IDX[color] for color in COLORS], dtype=np.uint8)


class Move(IntEnum):
    """The four cardinal moves, in the order of MiniGrid's directions."""

    RIGHT = 0
    DOWN = 1
    LEFT = 2
    UP = 3


MOVES = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], dtype=np.int64)


class StepResult(NamedTuple):
    """What one step gave every row; the observation is that of the cell the agent stands in afterwards."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class World(ABC):
    """B episodes of one task, each with a random stream of its own."""

    observation_space: spaces.Box
    """Of one row."""
    num_actions: int
    observation_kind: str
    """What the observations are: "minigrid" (its codes) or "tokens"; agents choose their network by it."""

    def __init__(self, num_worlds: int) -> None:
        self.num_worlds = check_whole("num_envs", num_worlds, at_least=1)
        self.generators: list[np.random.Generator] = [seeding.np_random(None)[0] for _ in range(num_worlds)]
        self._rows = np.arange(num_worlds)

    def seed(self, row: int, seed: int) -> None:
        """Start one row's random stream anew, as Gymnasium seeds an environment."""
        self.generators[row] = seeding.np_random(seed)[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly: arrays, and the state of the random generators."""
        arrays = {name: getattr(self, name).copy() for name in self._array_names()}
        return {"arrays": arrays, "generators": [generator.bit_generator.state for generator in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises ValueError, and changes nothing, where an array is of another name, type, shape or range.
        """
        arrays, ranges = state["arrays"], self._ranges()
        own = {name: getattr(self, name) for name in self._array_names()}
        if other := own.keys() ^ arrays.keys():
            raise ValueError(
                f"Expect the arrays {', '.join(own)}, actual: one more or less, {', '.join(sorted(other))}"
            )
        for name, array in own.items():
            kind, low, high = f"{array.dtype} {list(array.shape)}", *ranges.get(name, (0, np.inf))
            if (found := f"{arrays[name].dtype} {list(arrays[name].shape)}") != kind:
                raise ValueError(f"Expect the array `{name}` to be {kind}, actual: {found}")
            if not ((arrays[name] >= low) & (arrays[name] <= high)).all():
                raise ValueError(
                    f"Expect the array `{name}` to be from {low} to {high}, actual: {arrays[name].tolist()}"
                )
        for name, array in own.items():
            array[...] = arrays[name]
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.bit_generator.state = saved

    def succeeded(self, result: StepResult) -> np.ndarray:
        """Whether each episode that this step ended was a success, bool [B]: it ended with a reward."""
        return result.terminated & (result.reward > 0)

    @abstractmethod
    def reset(self, row: int) -> None:
        """Begin a new episode in one row."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> StepResult:
        """One step of every row."""

    @abstractmethod
    def observe(self) -> np.ndarray:
        """What every row shows now, [B, ...]."""

    @abstractmethod
    def infos(self) -> dict[str, np.ndarray]:
        """What a step's `info` tells about every row, beside what the observation shows; arrays [B]."""

    @abstractmethod
    def _array_names(self) -> list[str]:
        """The attributes that make up the state, arrays [B, ...]."""

    @abstractmethod
    def _ranges(self) -> dict[str, tuple[Any, Any]]:
        """The least and the greatest value of those arrays of the state that may not hold any number of at least 0."""


class GridWorld(World):
    """B grids of `width` x `height` cells, with the rules that a task adds."""

    observation_kind = "minigrid"

    def __init__(self, num_worlds: int, width: int, height: int, max_steps: int, view_size: int) -> None:
        super().__init__(num_worlds)
        self.max_steps = check_whole("max_steps", max_steps, at_least=1)
        self.view_size = check_whole("view_size", view_size, at_least=3)
        if self.view_size % 2 == 0:
            raise ValueError(f"Expect `view_size` to be odd, actual: {view_size}")
        self.width, self.height, self.margin = width, height, self.view_size // 2
        # A border of walls as wide as the view keeps every view inside the array.
        shape = (num_worlds, width + 2 * self.margin, height + 2 * self.margin, 3)
        self.grids = np.empty(shape, dtype=np.uint8)
        self.grids[:] = WALL
        self.positions = np.zeros((num_worlds, 2), dtype=np.int64)
        self.directions = np.zeros(num_worlds, dtype=np.int64)
        self.steps = np.zeros(num_worlds, dtype=np.int64)
        self.observation_space = spaces.Box(0, 255, (self.view_size, self.view_size, 3), np.uint8)
        self.num_actions = len(Move)
        # All views are gathered at once as 3-byte cells at these offsets from the agent's cell.
        offset = np.arange(self.view_size) - self.margin
        self._offsets = (offset[:, None] * shape[2] + offset[None, :]).ravel()
        self._first_cell = self._rows * (shape[1] * shape[2])

    def reset(self, row: int) -> None:
        """Begin a new episode in one row."""
        self.directions[row] = Move.RIGHT
        self.steps[row] = 0
        self._build(row, self.generators[row])

    def grid(self, row: int) -> np.ndarray:
        """The cells of one row without the border, [width, height, 3]; writing to it changes the world."""
        return self.grids[row, self.margin : self.margin + self.width, self.margin : self.margin + self.height]

    def cells(self, positions: np.ndarray) -> np.ndarray:
        """The codes of one cell a row, [B, 3]."""
        return self.grids[self._rows, positions[:, 0] + self.margin, positions[:, 1] + self.margin]

    def step(self, actions: np.ndarray) -> StepResult:
        """Move every agent one cell in the direction of its action (`Move`), if the cell can be entered."""
        self.directions[...] = actions
        targets = self.positions + MOVES[actions]
        codes = self.cells(targets)
        self.positions = np.where(self._enterable(codes)[:, None], targets, self.positions)
        self.steps += 1
        reward, terminated = self._rules(codes)
        return StepResult(reward, terminated, (self.steps >= self.max_steps) & ~terminated)

    def observe(self) -> np.ndarray:
        """What every agent sees, [B, view_size, view_size, 3] in MiniGrid's codes, indexed [row, x, y]."""
        place = self.positions + self.margin
        first = self._first_cell + place[:, 0] * self.grids.shape[2] + place[:, 1]
        cells = self.grids.reshape(-1, 3)[first[:, None] + self._offsets]
        return cells.reshape(self.num_worlds, self.view_size, self.view_size, 3)

    def infos(self) -> dict[str, np.ndarray]:
        """What a step's `info` tells about every row, beside what the observation shows."""
        return {"relevant": self.relevant()}

    def _array_names(self) -> list[str]:
        return ["grids", "positions", "directions", "steps"]

    def _ranges(self) -> dict[str, tuple[Any, Any]]:
        last = np.array([self.width - 1, self.height - 1])
        return {"positions": (0, last), "directions": (0, self.num_actions - 1), "steps": (0, self.max_steps - 1)}

    def _enterable(self, codes: np.ndarray) -> np.ndarray:
        """Whether an agent can stand in a cell of these codes, bool [B] for codes [B, 3]."""
        return codes[:, 0] == EMPTY[0]

    @staticmethod
    @abstractmethod
    def mission() -> str:
        """What MiniGrid shows as the mission."""

    @abstractmethod
    def relevant(self) -> np.ndarray:
        """Whether each row's present observation carries what a later step needs, bool [B]."""

    @abstractmethod
    def _build(self, row: int, random: np.random.Generator) -> None:
        """Draw one row's grid and place its agent; the cells of the last episode still stand (walls before the first).

        Resets are what limits the rate of short episodes, so a task writes no more than what has changed.
        """

    @abstractmethod
    def _rules(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and terminations, given the codes of the cells that the agents moved into or bumped against.

        A task that takes an agent elsewhere, through a portal say, changes its position here.
        """
