"""Scripted solvers that see what an agent sees: with perfect memory a task's ceiling, without memory its floor."""

import numpy as np

from .instruction import NOTHING
from .lines import CHARACTERS, read_lines
from .portal import DIGITS
from .world import BALL, DOOR, WALL, Move


class CorridorSolver:
    """Walks right and leaves by the door of the ball's colour, or by either door where it may not remember.

    Reads images in MiniGrid's codes, [B, view, view, 3], and works for every view size.
    """

    def __init__(self, num_envs: int, remember: bool, seed: int | None = None) -> None:
        self.remember = remember
        self.colors = np.full(num_envs, -1)
        self.random = np.random.default_rng(seed)

    def act(self, images: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        """A `Move` for every row; `episode_starts` says which rows have just been reset."""
        self.colors[episode_starts] = -1
        return np.array([self._move(row, image) for row, image in enumerate(images)], dtype=np.int64)

    def _move(self, row: int, image: np.ndarray) -> Move:
        balls = np.argwhere(image[:, :, 0] == BALL)
        if self.remember and len(balls):
            self.colors[row] = image[tuple(balls[0])][1]
        middle = image.shape[0] // 2
        beside = {
            Move.RIGHT: image[middle + 1, middle],
            Move.DOWN: image[middle, middle + 1],
            Move.UP: image[middle, middle - 1],
        }
        doors = {move: cell[1] for move, cell in beside.items() if cell[0] == DOOR}
        if len(doors) < 2:  # the last cell is the one with two doors around it
            return Move.RIGHT
        known = [move for move, color in doors.items() if color == self.colors[row]]
        return known[0] if known else list(doors)[self.random.integers(len(doors))]


class PortalSolver:
    """Goes straight to a door: the one known to lead on, or either where it knows none or may not remember.

    Reads images in MiniGrid's codes, [B, view, view, 3], and works for every view size.
    """

    def __init__(self, num_envs: int, remember: bool, seed: int | None = None) -> None:
        self.remember = remember
        self.rows = np.arange(num_envs)
        self.right = np.full((num_envs, 100), -1)
        """Colour of the door that leads on, by room; -1 where unknown."""
        self.tried = np.zeros((num_envs, 3), dtype=np.int64)
        """Room, colour and the other colour of the door last chosen; room 0 once its outcome is known."""
        self.random = np.random.default_rng(seed)

    def act(self, images: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        """A `Move` for every row; `episode_starts` says which rows have just been reset."""
        self.right[episode_starts], self.tried[episode_starts] = -1, 0
        middle = images.shape[1] // 2
        ahead, upper, lower = (images[:, middle + 1, middle + side].astype(np.int64) for side in (0, -1, 1))
        at_wall = (ahead[:, 0] == WALL[0]) | (ahead[:, 0] == DOOR)
        # From the middle of a room the tens are beneath the agent, from in front of the wall they are to its left.
        tens = np.where(at_wall[:, None], images[:, middle - 1, middle], images[:, middle, middle])
        units = np.where(at_wall[:, None], images[:, middle, middle], ahead)
        room = 10 * _digit(tens) + _digit(units)
        self._learn(room, arrived=~at_wall & (self.tried[:, 0] > 0))
        choosing = at_wall & (ahead[:, 0] == WALL[0])
        up = upper[:, 1] == self.right[self.rows, room]
        unknown = ~up & (lower[:, 1] != self.right[self.rows, room])
        up = np.where(unknown, self.random.integers(2, size=len(images)) == 0, up)
        colors = np.where(up[:, None], np.stack([upper[:, 1], lower[:, 1]], 1), np.stack([lower[:, 1], upper[:, 1]], 1))
        self.tried = np.where(choosing[:, None], np.column_stack([room, colors]), self.tried)
        return np.where(choosing, np.where(up, Move.UP, Move.DOWN), Move.RIGHT).astype(np.int64)

    def _learn(self, room: np.ndarray, arrived: np.ndarray) -> None:
        tried, taken, other = self.tried.T
        if self.remember:
            outcome = np.where(room == 1, other, taken)
            self.right[self.rows[arrived], tried[arrived]] = outcome[arrived]
        self.tried[arrived] = 0


def _digit(codes: np.ndarray) -> np.ndarray:
    return (codes[:, None, :2] == DIGITS[:, :2]).all(-1).argmax(1)


class InstructionSolver:
    """Does at an encounter what it was told, or any of `num_actions` where it may not remember.

    Reads lines of token ids, [B, LINE_WIDTH].
    """

    def __init__(self, num_envs: int, remember: bool, seed: int | None = None, num_actions: int = 5) -> None:
        self.remember = remember
        self.rows = np.arange(num_envs)
        self.told = np.full((num_envs, len(CHARACTERS)), -1)
        """Action that each character is to do, -1 for none."""
        self.num_actions = num_actions
        self.random = np.random.default_rng(seed)

    def act(self, lines: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        """An action for every row; `episode_starts` says which rows have just been reset."""
        self.told[episode_starts] = -1
        read = read_lines(lines)
        if self.remember:
            instructed = read.instructed >= 0
            self.told[self.rows[instructed], read.instructed[instructed]] = read.action[instructed]
        known = self.told[self.rows, np.maximum(read.met, 0)]
        guess = self.random.integers(self.num_actions, size=len(lines))
        return np.where(read.met < 0, NOTHING, 1 + np.where(known < 0, guess, known))


SOLVERS = {"Corridor": CorridorSolver, "Portal": PortalSolver, "Instruction": InstructionSolver}
"""Solver of each task."""
