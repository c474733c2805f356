"""Multi-Room Portal (paper, section 5.1): learn by trying which door leads on, and remember it on the way back.

Every room has two doors; one leads to the next room, the other back to the first, and nothing shows which is which.
After a mistake in room k all k doors have to be found again, so the rooms that an agent gets to in `max_steps` are the
measure of what it remembers.
"""

from itertools import permutations
from typing import Any

import numpy as np

from ..checks import check_bool, check_whole
from .single import GridEnv
from .vector import WorldVectorEnv
from .world import BALL, BOX, CLOSED, COLOR_CODES, COLORS, DOOR, GridWorld

SIZE = 5
"""Cells across a room, its walls included."""
ARRIVAL = (2, 2)
"""Where an agent appears in a room."""
UPPER, LOWER = (4, 1), (4, 3)
"""Where the doors of a room are."""
MOST_ROOMS = 99
"""Rooms that two digits can number."""
TENS, UNITS = 2, (1, 3)
"""Columns of a room whose cells show the first and the second digit of its number."""
DIGITS = np.array([(kind, color, 0) for kind in (BALL, BOX) for color in COLOR_CODES][:10], dtype=np.uint8)
"""What shows the digits 0 to 9: a ball of each colour, then boxes.  Agents walk over them."""


class PortalWorld(GridWorld):
    """B rows of rooms.

    Room k is the square of 5 x 5 cells from x = 5 (k - 1), walls included; the three columns of its inside show its
    number.  A view of 3 x 3 holds the middle column and one of the others wherever the agent stands, hence the whole
    number, and always in the same cells of the view while the agent is in front of the doors.

    An agent appears in the middle of a room, sees both doors after a step to the right, and only the door that it is
    about to enter after a step up or down.  So an observation in front of a door and the one after it tell all there
    is to remember: room, colour, and outcome.
    """

    @staticmethod
    def mission() -> str:
        """What MiniGrid shows as the mission."""
        return "find the doors that lead on to the last room"

    def __init__(
        self,
        num_worlds: int,
        num_rooms: int = 50,
        max_mistakes: int = 2,
        max_steps: int = 1000,
        view_size: int = 3,
        num_colors: int = 2,
        reward_again: bool = True,
        largest_number: int | None = None,
    ) -> None:
        self.num_rooms = check_whole("num_rooms", num_rooms, at_least=2)
        if num_rooms > MOST_ROOMS:
            raise ValueError(f"Expect `num_rooms` to be at most {MOST_ROOMS} (two digits), actual: {num_rooms}")
        self.max_mistakes = check_whole("max_mistakes", max_mistakes, at_least=1)
        self.num_colors = check_whole("num_colors", num_colors, at_least=2)
        if num_colors > len(COLORS):
            raise ValueError(f"Expect `num_colors` to be at most {len(COLORS)}, actual: {num_colors}")
        self.reward_again = check_bool("reward_again", reward_again)
        self.largest_number = largest_number
        if largest_number is not None:
            check_whole("largest_number", largest_number, at_least=num_rooms)
            if largest_number > MOST_ROOMS:
                raise ValueError(f"Expect `largest_number` to be at most {MOST_ROOMS}, actual: {largest_number}")
        super().__init__(num_worlds, SIZE * num_rooms, SIZE, max_steps, view_size)
        self.rooms = np.ones(num_worlds, dtype=np.int64)
        self.furthest = np.ones(num_worlds, dtype=np.int64)
        self.arrived = np.zeros(num_worlds, dtype=np.bool_)
        # Entry [row, k] is that of room k; entry 0 is unused.
        self.right = np.zeros((num_worlds, num_rooms), dtype=np.uint8)
        self.mistakes = np.zeros((num_worlds, num_rooms), dtype=np.int64)
        self._draw_rooms()
        # The cells with the doors, [B, rooms but the last, y, 3], and all ways to draw a room: upper, lower, right.
        walls = slice(self.margin + UPPER[0], self.margin + self.width - SIZE, SIZE)
        self._doors = self.grids[:, walls, self.margin : self.margin + SIZE]
        pairs = permutations(COLOR_CODES[: self.num_colors], 2)
        self._pairs = np.array([(*pair, right) for pair in pairs for right in pair], dtype=np.uint8)

    def infos(self) -> dict[str, np.ndarray]:
        """`relevant`, the number of the present `room`, and of the furthest one (`rooms_reached`), both from 1."""
        return super().infos() | {"room": self.rooms.copy(), "rooms_reached": self.furthest.copy()}

    def relevant(self) -> np.ndarray:
        """The agent has just come through a door, and sees where that led."""
        return self.arrived.copy()

    def _array_names(self) -> list[str]:
        return [*super()._array_names(), "rooms", "furthest", "arrived", "right", "mistakes"]

    def _ranges(self) -> dict[str, tuple[Any, Any]]:
        rooms = (1, self.num_rooms - 1)  # coming to the last one ends the episode
        return super()._ranges() | {"rooms": rooms, "furthest": rooms}

    def _build(self, row: int, random: np.random.Generator) -> None:
        drawn = self._pairs[random.integers(len(self._pairs), size=self.num_rooms - 1)]
        self._doors[row, :, UPPER[1], 1] = drawn[:, 0]
        self._doors[row, :, LOWER[1], 1] = drawn[:, 1]
        self.right[row, 1:] = drawn[:, 2]
        if self.largest_number is not None:
            others = 2 + random.permutation(self.largest_number - 1)[: self.num_rooms - 1]
            self._write_numbers(row, np.append(1, others))
        self.positions[row] = ARRIVAL
        self.rooms[row] = self.furthest[row] = 1
        self.arrived[row] = False
        self.mistakes[row] = 0

    def _draw_rooms(self) -> None:
        """Everything but the colours of the doors, which differ from episode to episode."""
        for row in range(self.num_worlds):
            self._write_numbers(row, np.arange(1, self.num_rooms + 1))
            for room in self._rooms(row)[:-1]:  # the last room needs no doors
                room[UPPER] = room[LOWER] = (DOOR, 0, CLOSED)

    def _rooms(self, row: int) -> np.ndarray:
        return self.grid(row).reshape(self.num_rooms, SIZE, SIZE, 3)

    def _write_numbers(self, row: int, numbers: np.ndarray) -> None:
        rooms = self._rooms(row)
        rooms[:, TENS, 1:-1] = DIGITS[numbers // 10, None]
        for column in UNITS:
            rooms[:, column, 1:-1] = DIGITS[numbers % 10, None]

    def _enterable(self, codes: np.ndarray) -> np.ndarray:
        return (codes[:, 0] == BALL) | (codes[:, 0] == BOX)

    def _rules(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reward, ended = np.zeros(self.num_worlds), np.zeros(self.num_worlds, dtype=np.bool_)
        self.arrived = codes[:, 0] == DOOR
        row = np.flatnonzero(self.arrived)
        if not len(row):
            return reward, ended
        room = self.rooms[row]
        onward = codes[row, 1] == self.right[row, room]
        self.mistakes[row, room] += ~onward
        self.rooms[row] = np.where(onward, room + 1, 1)
        self.positions[row, 0] = SIZE * (self.rooms[row] - 1) + ARRIVAL[0]
        self.positions[row, 1] = ARRIVAL[1]
        rewarded = onward & (self.reward_again | (room == self.furthest[row]))
        reward[row] = np.where(rewarded, 0.1 * room, 0)
        self.furthest[row] = np.maximum(self.furthest[row], self.rooms[row])
        ended[row] = (self.rooms[row] == self.num_rooms) | (self.mistakes[row, room] >= self.max_mistakes)
        return reward, ended


class PortalEnv(GridEnv):
    """Portal: find the door that leads on in every room, and remember it when sent back to the first.

    ## Description
    Rooms in a row, each 5 x 5 cells with its walls.  The agent appears in the middle of a room; in the right wall are
    two doors of different colours.  One leads to the next room, the other back to the first room.  Their colours, their
    places, and which is which are drawn for every room at the start of an episode and stay as they are during it.
    Going through a room takes 3 moves (right, up or down, right).  The agent sees the cells around it (`view_size` x
    `view_size`, upright): not the doors from the middle of the room, both from in front of the wall.

    The room's number is written on the floor, its tens in the middle column, its units in the others, so that a view of
    3 x 3 holds both wherever the agent stands.  Digits 0 to 5 are balls (red, blue, green, yellow, purple, grey), 6 to
    9 boxes (red, blue, green, yellow), which don't stop the agent.

    ## Actions
    `Discrete(4)`: 0 right, 1 down, 2 left, 3 up (`Move`), one cell each; walls stop the agent, doors take it to the
    middle of another room.

    ## Observations
    MiniGrid's dictionary: `image` of shape (view_size, view_size, 3) in MiniGrid's object, colour and state codes,
    indexed [x, y]; `direction` of the last move; `mission`, the same in every episode.  The vectorised form gives the
    images alone.

    ## Rewards
    0.1 * k for going from room k to room k + 1, also when it is gone that way again after a mistake, as the rule says
    literally; with `reward_again=False` only the first time.  0 otherwise.

    ## Episode end
    Terminated on reaching the last room and at the second mistake (`max_mistakes`) in the same room, truncated after
    `max_steps`.

    ## Information
    `relevant`: the agent has just gone through a door and sees where it led.  `room`: number of the present room, from
    1.  `rooms_reached`: the furthest room of the episode so far.  `is_success`, at the end only: reached the last room.

    ## Arguments
    `num_rooms=50`: up to 99.  `max_mistakes=2`: mistakes in one room that end the episode.  `max_steps=1000`: steps
    until truncation.  `view_size=3`: cells across the view, odd.  `num_colors=2`: colours that a door can have, up to
    6.  `reward_again=True`: whether going through a room again is rewarded again.  `largest_number=None`: a number
    up to 99, at least `num_rooms`: the rooms after the first then carry distinct random numbers from 2 up to it in
    place of theirs, so that few rooms are enough to learn all numbers; in order where None.
    """

    def __init__(
        self,
        num_rooms: int = 50,
        max_mistakes: int = 2,
        max_steps: int = 1000,
        view_size: int = 3,
        num_colors: int = 2,
        reward_again: bool = True,
        largest_number: int | None = None,
        **kwargs: Any,
    ) -> None:
        world = PortalWorld(1, num_rooms, max_mistakes, max_steps, view_size, num_colors, reward_again, largest_number)
        super().__init__(world, **kwargs)


class PortalVectorEnv(WorldVectorEnv):
    """`num_envs` rows of rooms stepped at once; arguments and rules as in `PortalEnv`."""

    def __init__(
        self,
        num_envs: int = 1,
        num_rooms: int = 50,
        max_mistakes: int = 2,
        max_steps: int = 1000,
        view_size: int = 3,
        num_colors: int = 2,
        reward_again: bool = True,
        largest_number: int | None = None,
    ) -> None:
        world = PortalWorld(
            num_envs, num_rooms, max_mistakes, max_steps, view_size, num_colors, reward_again, largest_number
        )
        super().__init__(world)
