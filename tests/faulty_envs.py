"""Environments that can't be used, or not as a user asks for."""

from typing import Any

from gymnasium import spaces
from models import Blinker


class Plain(Blinker):
    """Takes no `render_mode`, although it says that it could draw itself."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's form


class Broken(Blinker):
    """Its own constructor fails."""

    def __init__(self) -> None:
        {}["level"]


class Mistyped(Blinker):
    """Its own constructor fails with the error that unknown arguments raise."""

    def __init__(self, size: Any = 3) -> None:
        len(size)


class Needy(Blinker):
    """Needs an argument."""

    def __init__(self, level: int) -> None:
        self.level = level


class Written(Blinker):
    """Shows text beside numbers."""

    observation_space = spaces.Dict({"text": spaces.Text(9), "numbers": spaces.Box(0, 1, (2,))})


class Linked(Blinker):
    """Shows a graph."""

    observation_space = spaces.Graph(spaces.Discrete(3), None)


class Twofold(Blinker):
    """Takes two actions at once."""

    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))
