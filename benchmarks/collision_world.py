"""Object Collision's world beside the paper's figures: rate of collisions, perfect recall, frames a second.

Perfect recall within K tokens: the share of scored questions whose collision is K tokens old or older, times 75 %, the
error of a guess among four quadrants.  `streams` worlds of 500,000 frames each from their beginning, as the published
data are; the deviation is that between worlds.  One thread; frames a second are those of processor time.

    python benchmarks/collision_world.py
"""

import argparse
import time

import numpy as np
from expirespan.sequences import Collision, CollisionConfig
from expirespan.sequences.collision import BLOCK, FRAME
from expirespan.sequences.collision_world import draw_frames, first_world

SPANS = (2**14, 2**15, 2**16)
FRAMES = 500_000


def recall(config: CollisionConfig, streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every world, the share of frames with a collision [B], and the error in percent for each span [spans, B]."""
    random = np.random.default_rng(0)
    world = first_world(config, streams, random)
    met, scored, forgotten = np.zeros(streams), np.zeros(streams), np.zeros((len(SPANS), streams))
    for first in range(0, FRAMES, BLOCK):
        frames, world = draw_frames(world, min(BLOCK, FRAMES - first), first, config, random)
        known = frames.collided >= 0
        age = FRAME * (first + np.arange(len(known))[:, None] - frames.collided)
        met += (frames.cell[..., 0] == frames.cell[..., 1]).all(0).sum(0)
        scored += known.sum(0)
        forgotten += [(known & (age >= span)).sum(0) for span in SPANS]
    return met / FRAMES, 75 * forgotten / scored


def frames_a_second(config: CollisionConfig, streams: int) -> float:
    """Read as tokens, for two seconds of processor time."""
    stream, steps = Collision(config, batch_size=streams), BLOCK * FRAME
    count, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < 2:
        stream.read(steps)
        count += streams * BLOCK
    return count / spent


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    options = parser.parse_args()
    for easy in ("present", "latest"):
        config = CollisionConfig(easy=easy)
        rate, errors = recall(config, options.streams)
        print(f"easy pair {easy}: collisions {rate.mean():.5f} a frame, deviation {rate.std():.5f}")
        for span, error in zip(SPANS, errors, strict=True):
            print(f"  error with recall within {span} tokens: {error.mean():.1f} %, deviation {error.std():.1f}")
        speeds = ", ".join(f"{frames_a_second(config, streams):,.0f} with {streams}" for streams in (64, 512))
        print(f"  frames a second: {speeds} streams", flush=True)


if __name__ == "__main__":
    main()
