"""Object Collision as tokens (paper, Object Collision): where did particles of these two colours last collide?

A frame of a grid of N cells across with C colours is eight tokens: row, N + column, 2N + colour of particle 0, the same
of particle 1, and 2N + C + colour for each colour of the pair asked for.  The target stands on the eighth:
2 * (lower half) + (right half), or IGNORED where the pair has not collided yet.

Worlds never end: the only reset of a row is its first step.  Frames are drawn in blocks of BLOCK from the seed and the
block's number, so the state is the world at the beginning of a block and the steps read since.
"""

import colorsys
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64, UInt8

from ..checks import EXACT, check_whole
from .collision_world import NEVER, CollisionConfig, Frames, World, draw_frames, first_world
from .streams import IGNORED, Window, check_state, join

BLOCK = 256
"""Frames drawn at once."""
FRAME = 8
"""Tokens of a frame."""


class Collision:
    """Worlds of two particles as streams of tokens (`streams.Stream`)."""

    classes = 4

    def __init__(self, config: CollisionConfig, *, batch_size: int, seed: int = 0) -> None:
        self.config = config
        self.batch_size = check_whole("batch_size", batch_size, at_least=1)
        self.vocabulary = 2 * config.grid + 2 * config.colors
        self._seed = check_whole("seed", seed, at_least=0)
        self._enter(0, first_world(config, self.batch_size, self._random(0)))

    def _random(self, number: int) -> np.random.Generator:
        """0 for the first world, block + 1 for a block."""
        return np.random.default_rng([self._seed, number])

    def _enter(self, block: int, world: World) -> None:
        """Draw a block, before which the world is this one."""
        self._block, self._step, self._world = block, 0, world
        frames, self._after = draw_frames(world, BLOCK, block * BLOCK, self.config, self._random(block + 1))
        self._window = window_of(frames, self.config)
        self._window.resets[:, 0] = block == 0

    def read(self, steps: int) -> Window:
        """The next steps of every row."""
        left = check_whole("steps", steps, at_least=1)
        windows = []
        while left:
            if self._step == BLOCK * FRAME:
                self._enter(self._block + 1, self._after)
            end = min(self._step + left, BLOCK * FRAME)
            windows.append(Window(*(part[:, self._step : end].copy() for part in self._window)))
            left -= end - self._step
            self._step = end
        return join(windows)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Number of the block, steps of it that were read, and the world before it."""
        return {"block": np.array(self._block), "step": np.array(self._step), **self._world._asdict()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state_dict` (`streams.Stream`)."""
        ranges = {
            "block": (0, EXACT // BLOCK),
            "step": (0, BLOCK * FRAME),
            "position": (np.nextafter(0, 1), np.nextafter(self.config.grid - 1, 0)),
            "color": (0, self.config.colors - 1),
            "quadrant": (IGNORED, self.classes - 1),
            "collided": (NEVER, EXACT),
        }
        check_state(state, self.state_dict(), ranges)
        self._enter(int(state["block"]), World(*(state[name].copy() for name in World._fields)))
        self._step = int(state["step"])


def window_of(frames: Frames, config: CollisionConfig) -> Window:
    """Frames as tokens, without resets."""
    count, rows = frames.asked.shape
    tokens = np.empty((rows, count, FRAME), np.int64)
    for particle in range(2):
        row, column = frames.cell[..., particle].transpose(0, 2, 1)
        tokens[:, :, 3 * particle] = row
        tokens[:, :, 3 * particle + 1] = config.grid + column
        tokens[:, :, 3 * particle + 2] = 2 * config.grid + frames.color[..., particle].T
    for place, color in enumerate(np.divmod(frames.asked.T, config.colors)):
        tokens[:, :, 6 + place] = 2 * config.grid + config.colors + color
    targets = np.full(tokens.shape, IGNORED)
    targets[:, :, -1] = frames.answer.T
    steps = (rows, count * FRAME)
    return Window(tokens.reshape(steps), targets.reshape(steps), np.zeros(steps, dtype=bool))


def draw_frame(tokens: Int64[np.ndarray, "8"], config: CollisionConfig, cell: int = 16) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a frame, `cell` pixels a cell: quadrants, particle 0 as a square, particle 1 as a smaller one.

    The pair asked for stands in a strip beneath, each colour as its particle.
    """
    grid, colors = config.grid, config.colors
    first = np.array([0, grid, 2 * grid, 0, grid, 2 * grid, 2 * grid + colors, 2 * grid + colors])
    row0, column0, color0, row1, column1, color1, asked0, asked1 = (tokens - first).tolist()
    palette = [[255 * part for part in colorsys.hsv_to_rgb(n / colors, 0.8, 1)] for n in range(colors)]
    picture = np.full(((grid + 2) * cell, grid * cell, 3), 24, np.uint8)
    middle, bottom, border = (grid + 1) // 2 * cell, grid * cell, max(cell // 4, 1)
    picture[:bottom, middle] = picture[middle] = 96
    picture[bottom:] = 64
    squares = [(row0, column0, color0, 0), (grid + 1, 0, asked0, 0)]
    squares += [(row1, column1, color1, border), (grid + 1, 1, asked1, border)]
    for row, column, color, margin in squares:
        top, left, size = row * cell + margin, column * cell + margin, cell - 2 * margin
        picture[top : top + size, left : left + size] = palette[color]
    return picture
