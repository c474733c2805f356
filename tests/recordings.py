"""Made-up episodes for tests of files, of the tab's answers and of the page."""

import numpy as np
from expirespan.analysis.record import AttentionRecord, EpisodeTrace, LayerRecord


def made_up(steps: int, layers: int, seed: int = 3, full: bool = True) -> EpisodeTrace:
    """An episode in which a few memories stay long; `full` adds attention, events with markup, and frames."""
    random, written = np.random.default_rng(seed), np.arange(steps)

    def layer() -> LayerRecord:
        span = np.where(random.random(steps) < 0.1, random.uniform(20, 200, steps), random.uniform(0, 5, steps))
        deleted = np.minimum(written + 1 + span.astype(int), steps)
        change = np.bincount(written, minlength=steps + 1) - np.bincount(deleted, minlength=steps + 1)
        pairs = np.array([(query, memory) for query in range(steps) for memory in {0, query}], dtype=np.int32)
        weight = np.full(len(pairs), 0.5, dtype=np.float32)
        attention = AttentionRecord(query=pairs[:, 0], memory=pairs[:, 1], weight=weight)
        return LayerRecord(
            span=span,
            deleted=deleted,
            evicted=(random.random(steps) < 0.1) & (deleted < steps),
            live=change.cumsum()[:steps],
            attention=attention if full else None,
        )

    return EpisodeTrace(
        layers=tuple(layer() for _ in range(layers)),
        relevant=random.random(steps) < 0.1,
        rewards=(written == steps - 1).astype(float),
        actions=random.integers(0, 4, steps),
        values=random.uniform(0, 1, steps).astype(np.float32),
        events=np.where(written == 1, "<img src=x onerror=alert(1)>", "") if full else None,
        frames=random.integers(0, 255, (steps, 5, 3, 3), dtype=np.uint8) if full else None,
        episode_end="terminated" if full else "",
    )
