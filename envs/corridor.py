"""Corridor (paper, section 5.1): carry one observation to the far end of a corridor.

The agent starts beside a coloured ball, walks through a corridor in which every cell looks the same, and leaves by one
of two doors at the end.  Only the door of the ball's colour is right, and the ball has long been out of view.
"""

from typing import Any

import numpy as np

from ..checks import check_whole
from .single import GridEnv
from .vector import WorldVectorEnv
from .world import BALL, CLOSED, COLOR_CODES, COLORS, DOOR, EMPTY, WALL, GridWorld


class CorridorWorld(GridWorld):
    """B corridors.

    A corridor of length n is the n cells (1, 1) to (n, 1) of a grid three cells high.  The ball is at (0, 1), next to
    the start; the doors take two of the three cells around the last one, so both are seen from there in a 3x3 view.
    """

    @staticmethod
    def mission() -> str:
        """What MiniGrid shows as the mission."""
        return "leave by the door of the same color as the ball"

    def __init__(
        self,
        num_worlds: int,
        min_length: int = 3,
        max_length: int = 200,
        max_steps: int | None = None,
        view_size: int = 3,
        num_colors: int = 2,
    ) -> None:
        self.min_length = check_whole("min_length", min_length, at_least=1)
        self.max_length = check_whole("max_length", max_length, at_least=1)
        if max_length < min_length:
            raise ValueError(f"Expect `max_length` to be at least `min_length` ({min_length}), actual: {max_length}")
        self.num_colors = check_whole("num_colors", num_colors, at_least=2)
        if num_colors > len(COLORS):
            raise ValueError(f"Expect `num_colors` to be at most {len(COLORS)}, actual: {num_colors}")
        super().__init__(num_worlds, max_length + 2, 3, 5 * max_length if max_steps is None else max_steps, view_size)
        self.lengths = np.zeros(num_worlds, dtype=np.int64)
        self.colors = np.zeros(num_worlds, dtype=np.uint8)

    def infos(self) -> dict[str, np.ndarray]:
        """`relevant`, and the `length` of the corridor in cells."""
        return super().infos() | {"length": self.lengths.copy()}

    def relevant(self) -> np.ndarray:
        """The ball is in view."""
        return self.positions[:, 0] <= self.margin

    def _array_names(self) -> list[str]:
        return [*super()._array_names(), "lengths", "colors"]

    def _ranges(self) -> dict[str, tuple[Any, Any]]:
        return super()._ranges() | {"lengths": (1, self.width - 2)}

    def _build(self, row: int, random: np.random.Generator) -> None:
        if not 1 <= self.min_length <= self.max_length <= self.width - 2:  # set from outside since
            raise ValueError(
                f"Expect `min_length` and `max_length` to be in order, from 1 to the {self.width - 2} cells that the "
                f"grid was made for, actual: {self.min_length} and {self.max_length}"
            )
        length = int(random.integers(self.min_length, self.max_length, endpoint=True))
        right, wrong = COLOR_CODES[random.permutation(self.num_colors)[:2]].tolist()
        spots = ((length, 0), (length + 1, 1), (length, 2))
        place, other = random.permutation(3)[:2].tolist()
        grid = self.grid(row)
        grid[:] = WALL
        grid[1 : length + 1, 1] = EMPTY
        grid[0, 1] = (BALL, right, 0)
        grid[spots[place]] = (DOOR, right, CLOSED)
        grid[spots[other]] = (DOOR, wrong, CLOSED)
        self.positions[row] = (1, 1)
        self.lengths[row], self.colors[row] = length, right

    def _rules(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left = codes[:, 0] == DOOR
        return (left & (codes[:, 1] == self.colors)).astype(np.float64), left


class CorridorEnv(GridEnv):
    """Corridor: remember the colour of the ball at the start until the doors at the end.

    ## Description
    A corridor of random length, the same in every cell.  Beside the start lies a ball of some colour; around the last
    cell are two doors in random places, one of the ball's colour and one of another.  The agent sees the cells around
    it (`view_size` x `view_size`, upright), so it sees the ball only at the start and the doors only at the end.

    ## Actions
    `Discrete(4)`: 0 right, 1 down, 2 left, 3 up (`Move`), one cell each; walls and the ball stop the agent.

    ## Observations
    MiniGrid's dictionary: `image` of shape (view_size, view_size, 3) in MiniGrid's object, colour and state codes,
    indexed [x, y]; `direction` of the last move; `mission`, the same in every episode.  The vectorised form gives the
    images alone.

    ## Rewards
    1 for leaving by the door of the ball's colour, 0 otherwise.

    ## Episode end
    Terminated on leaving by either door, truncated after `max_steps`.

    ## Information
    `relevant`: the ball is in view.  `length`: cells of the corridor; leaving it takes `length` moves.
    `is_success`, at the end only: left by the right door.

    ## Arguments
    `min_length=3`, `max_length=200`: the length in cells is drawn uniformly between them, both included.
    `max_steps=None`: steps until truncation; 5 * max_length where None (the paper names no limit).
    `view_size=3`: cells across the view, odd.  `num_colors=2`: colours that a ball or a door can have, up to 6.
    """

    def __init__(
        self,
        min_length: int = 3,
        max_length: int = 200,
        max_steps: int | None = None,
        view_size: int = 3,
        num_colors: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(CorridorWorld(1, min_length, max_length, max_steps, view_size, num_colors), **kwargs)


class CorridorVectorEnv(WorldVectorEnv):
    """`num_envs` corridors stepped at once; arguments and rules as in `CorridorEnv`."""

    def __init__(
        self,
        num_envs: int = 1,
        min_length: int = 3,
        max_length: int = 200,
        max_steps: int | None = None,
        view_size: int = 3,
        num_colors: int = 2,
    ) -> None:
        super().__init__(CorridorWorld(num_envs, min_length, max_length, max_steps, view_size, num_colors))
