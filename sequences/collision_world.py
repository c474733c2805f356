"""The world of Object Collision (paper, Object Collision): two particles, and what was asked about their collisions.

Two particles move on a grid and change colour now and then.  They collide in a frame in which both stand in the same
cell; nothing is deflected, and a stay in one cell is a collision in every frame.  Each frame asks for an ordered pair
of colours; the answer is the quadrant of the grid in which particles of these colours last collided, be it in this
frame.  0.0041 of the frames have a collision, so most answers lie thousands of steps back
(benchmarks/collision_world.py).

Worlds are computed B at a time and many frames at once: paths by their straight legs, colours by the last frame in
which they were drawn, answers by search in the sorted list of collisions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..checks import check_choice, check_positive, check_share, check_whole
from .streams import IGNORED

NEVER = -1
"""In place of a frame's number."""


@dataclass(frozen=True, kw_only=True)
class CollisionConfig:
    """Rules of the world; the defaults are the paper's."""

    grid: int = 16
    """Cells across (N)."""
    colors: int = 5
    """Colours that a particle can have (C)."""
    speed: float = 0.5
    """Standard deviation of a new velocity on each axis, in cells a frame."""
    recolor: float = 0.05
    """Probability that a particle's colour is drawn anew in a frame; it may stay the same."""
    easy_share: float = 0.4
    """Probability that a frame asks for the easy pair; the others ask for two random colours."""
    easy: str = "present"
    """Which pair is easy: that of the present colours, as in the released code, or that of the "latest" collision's
    colours, as in the paper's text."""

    def __post_init__(self) -> None:
        check_whole("grid", self.grid, at_least=2)
        check_whole("colors", self.colors, at_least=1)
        check_positive(
            "speed", self.speed, at_most=float(self.grid - 1)
        )  # else velocities that stay inside are rarely drawn
        check_share("recolor", self.recolor)
        check_share("easy_share", self.easy_share)
        check_choice("easy", self.easy, ("present", "latest"))


class World(NamedTuple):
    """What goes on from frame to frame."""

    position: Float64[np.ndarray, "2 B 2"]
    """Axis (row, column), row of the batch, particle; in cells, strictly between 0 and N - 1."""
    velocity: Float64[np.ndarray, "2 B 2"]
    color: Int64[np.ndarray, "B 2"]
    quadrant: Int64[np.ndarray, "B pairs"]
    """Of the latest collision of each pair of colours (a, b), numbered C * a + b; IGNORED before the first."""
    collided: Int64[np.ndarray, "B pairs"]
    """Number of the frame of that collision; NEVER before the first."""


class Frames(NamedTuple):
    """F frames of B worlds."""

    cell: Int64[np.ndarray, "2 F B 2"]
    """Axis (row, column), frame, row of the batch, particle."""
    color: Int64[np.ndarray, "F B 2"]
    asked: Int64[np.ndarray, "F B"]
    """Number of the pair."""
    answer: Int64[np.ndarray, "F B"]
    """Quadrant, or IGNORED."""
    collided: Int64[np.ndarray, "F B"]
    """Number of the frame of the collision asked for, or NEVER."""


def first_world(config: CollisionConfig, batch_size: int, random: np.random.Generator) -> World:
    """A world before its first frame."""
    pairs = (batch_size, config.colors**2)
    return World(
        position=random.uniform(0, config.grid - 1, (2, batch_size, 2)),
        velocity=random.normal(0, config.speed, (2, batch_size, 2)),
        color=random.integers(config.colors, size=(batch_size, 2)),
        quadrant=np.full(pairs, IGNORED),
        collided=np.full(pairs, NEVER),
    )


def draw_frames(
    world: World, count: int, first: int, config: CollisionConfig, random: np.random.Generator
) -> tuple[Frames, World]:
    """The next `count` frames, numbered from `first`, and the world after them."""
    path, position, velocity = move(world.position, world.velocity, count, config, random)
    cell = np.rint(path).astype(np.int64)
    color = recolored(world.color, count, config, random)
    pair = config.colors * color[..., 0] + color[..., 1]
    met = (cell[..., 0] == cell[..., 1]).all(0)
    easy = pair if config.easy == "present" else newest(world, pair, met)
    other = random.integers(config.colors**2, size=pair.shape)
    asked = np.where((random.random(pair.shape) < config.easy_share) & (easy >= 0), easy, other)
    half = 2 * cell[..., 0] >= config.grid
    log = collision_log(world, met, pair, 2 * half[0] + half[1], first)
    rows = np.arange(pair.shape[1])
    frames = Frames(cell, color, asked, *log.latest(rows, asked, np.arange(count)[:, None]))
    known = log.latest(rows[:, None], np.arange(config.colors**2), count - 1)
    return frames, World(position, velocity, color[-1], *known)


class CollisionLog(NamedTuple):
    """What was known before a block of frames and the collisions in it, which are rare, as one sorted list."""

    key: Int64[np.ndarray, " events"]
    """Row, pair and frame of the block as one number."""
    quadrant: Int64[np.ndarray, " events"]
    collided: Int64[np.ndarray, " events"]
    pairs: int
    frames: int

    def latest(self, row: np.ndarray, pair: np.ndarray, frame: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Quadrant and frame of the last collision of each pair up to each frame, that one included."""
        key = event_key(row, pair, frame, self.pairs, self.frames)
        event = np.searchsorted(self.key, key, side="right") - 1
        return self.quadrant[event], self.collided[event]


def collision_log(
    world: World,
    met: Bool[np.ndarray, "F B"],
    pair: Int64[np.ndarray, "F B"],
    quadrant: Int64[np.ndarray, "F B"],
    first: int,
) -> CollisionLog:
    """The log of a block that begins with frame number `first`."""
    rows, pairs = world.quadrant.shape
    frame, row = np.nonzero(met)
    before = event_key(np.arange(rows)[:, None], np.arange(pairs), -1, pairs, len(met))
    key = np.concatenate([before.ravel(), event_key(row, pair[met], frame, pairs, len(met))])
    order = np.argsort(key)
    return CollisionLog(
        key[order],
        np.concatenate([world.quadrant.ravel(), quadrant[met]])[order],
        np.concatenate([world.collided.ravel(), first + frame])[order],
        pairs,
        len(met),
    )


def event_key(row: np.ndarray, pair: np.ndarray, frame: np.ndarray | int, pairs: int, frames: int) -> np.ndarray:
    """Row, pair and frame (-1 for before the block) as one number, in this order."""
    return (row * pairs + pair) * (frames + 1) + frame + 1


def move(
    position: Float64[np.ndarray, "2 B 2"],
    velocity: Float64[np.ndarray, "2 B 2"],
    frames: int,
    config: CollisionConfig,
    random: np.random.Generator,
) -> tuple[Float64[np.ndarray, "2 F B 2"], Float64[np.ndarray, "2 B 2"], Float64[np.ndarray, "2 B 2"]]:
    """Positions in the next frames; position and velocity after them.

    A particle keeps its velocity while that leads strictly inside the grid, and else draws new ones until one does.  So
    its path is made of straight legs, the rejected velocities being legs of no frames; leg n of all particles that need
    one is found at once.
    """
    far = config.grid - 1
    here, velocity = position.reshape(2, -1).copy(), velocity.reshape(2, -1).copy()
    done = np.zeros(here.shape[1], dtype=np.int64)  # frames
    leg = np.zeros((frames, here.shape[1]), dtype=np.int64)
    legs: list[tuple[np.ndarray, ...]] = []
    drawn, moving = 0, np.arange(here.shape[1])
    while moving.size:
        begin, start, speed = done[moving], here[:, moving], velocity[:, moving]
        leg[begin, moving] = drawn + np.arange(moving.size)
        legs.append((begin, *start, *speed))
        drawn += moving.size
        room = np.where(speed > 0, far - start, start)
        inside = (np.ceil(room / np.abs(speed)) - 1).min(0)  # frames
        steps = np.minimum(inside, frames - begin).astype(np.int64)
        here[:, moving] = (start + steps * speed).clip(np.nextafter(0, 1), np.nextafter(far, 0))
        done[moving] = begin + steps
        moving = moving[done[moving] < frames]
        velocity[:, moving] = config.speed * random.standard_normal((2, moving.size))
    leg = np.maximum.accumulate(leg, 0)
    begin, *lines = (np.concatenate(parts)[leg] for parts in zip(*legs, strict=True))
    elapsed = np.arange(1, frames + 1)[:, None] - begin
    path = np.stack([lines[axis] + elapsed * lines[2 + axis] for axis in range(2)])
    return path.reshape(2, frames, *position.shape[1:]), here.reshape(position.shape), velocity.reshape(position.shape)


def recolored(
    color: Int64[np.ndarray, "B 2"], frames: int, config: CollisionConfig, random: np.random.Generator
) -> Int64[np.ndarray, "F B 2"]:
    """Colours in the next frames."""
    drawn = random.integers(config.colors, size=(frames, *color.shape))
    return hold(color, drawn, random.random(drawn.shape) < config.recolor)


def newest(world: World, pair: Int64[np.ndarray, "F B"], met: Bool[np.ndarray, "F B"]) -> Int64[np.ndarray, "F B"]:
    """In every frame, the pair of colours that collided last; NEVER before the first collision."""
    before = np.where(world.collided.max(1) == NEVER, NEVER, world.collided.argmax(1))
    return hold(before, pair, met)


def hold(
    before: Int64[np.ndarray, "*row"], values: Int64[np.ndarray, "F *row"], new: Bool[np.ndarray, "F *row"]
) -> Int64[np.ndarray, "F *row"]:
    """The value of the last frame that was `new`, this one included; `before` where there was none."""
    frames = np.arange(1, len(values) + 1).reshape(-1, *[1] * before.ndim)
    last = np.maximum.accumulate(frames * new, 0)
    return np.take_along_axis(np.concatenate([before[None], values]), last, 0)
