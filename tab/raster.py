"""Pictures of memories at any scale: what the tab draws, a tile at a time.

Each memory is a bar from the step that wrote it to the step that deleted it.  Bars stand in lanes, so that no two of a
lane overlap: memories kept for much longer than usual above, the passing ones below.  A tile is `TILE` columns of
2^level steps each.  It costs work on the bars that it shows, and one comparison for each step before its end to find
them: the last tile of 50,000 steps takes half a millisecond, that of 5,000,000 steps three.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from ..analysis.record import EpisodeTrace, LayerRecord
from ..analysis.usage import attention_received

TILE = 512
"""Columns of a tile."""
MOST_ROWS = 256
"""Rows of a tile; with more lanes than that, several share a row."""
STARTS, RELEVANT, EVICTED = 1, 2, 4
"""Flags of a cell: a memory is written in it, a relevant one is in it, one is evicted at its end."""


def assign_lanes(deleted: np.ndarray) -> tuple[np.ndarray, int]:
    """The lane of each memory, int32 [T], and their number; memory i stands from step i to `deleted[i]`."""
    lifetime = deleted - np.arange(len(deleted))
    long = lifetime > 3 * np.median(lifetime)
    lane, above = np.zeros(len(deleted), dtype=np.int32), 0
    for chosen in (long, ~long):
        lanes, count = _packed(np.flatnonzero(chosen), deleted[chosen])
        lane[chosen] = lanes + above
        above += count
    return lane, above


def _packed(written: np.ndarray, deleted: np.ndarray) -> tuple[np.ndarray, int]:
    """The lowest free lane for each bar in turn, and the number of lanes, which is the most bars at one step."""
    lane, free, count = np.zeros(len(written), dtype=np.int32), [], 0
    busy: list[tuple[int, int]] = []
    for bar, (start, end) in enumerate(zip(written.tolist(), deleted.tolist(), strict=True)):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            free.append(count)
            count += 1
        lane[bar] = heapq.heappop(free)
        heapq.heappush(busy, (end, int(lane[bar])))
    return lane, count


def shades(values: np.ndarray) -> np.ndarray:
    """Values of at least 0 as 1 to 255, uint8 [T], on a logarithmic scale from the smallest to the largest."""
    scaled = np.log1p(values.astype(np.float64))
    low, high = scaled.min(), scaled.max()
    return (1 + np.rint(254 * (scaled - low) / max(high - low, 1e-9))).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class LayerBars:
    """The bars of one layer, ready to be drawn; arrays are [T]."""

    row: np.ndarray
    rows: int
    lanes_per_row: int
    deleted: np.ndarray
    evicted: np.ndarray
    relevant: np.ndarray
    received: np.ndarray | None
    """Attention that each memory got from all later steps; None where that was not recorded."""
    shade: dict[str, np.ndarray]
    """uint8 [T] by what the colour stands for: span, and attention where it was recorded."""

    @classmethod
    def of(cls, layer: LayerRecord, relevant: np.ndarray) -> "LayerBars":
        """The bars of a recorded layer."""
        lane, lanes = assign_lanes(layer.deleted)
        share = -(-lanes // MOST_ROWS)
        shade, received = {"span": shades(np.nan_to_num(layer.span).clip(0))}, None
        if layer.attention is not None:
            received = attention_received(layer)
            shade["attention"] = shades(np.nan_to_num(received).clip(0))
        return cls(
            row=lane // share,
            rows=-(-lanes // share),
            lanes_per_row=share,
            deleted=layer.deleted,
            evicted=layer.evicted,
            relevant=relevant,
            received=received,
            shade=shade,
        )

    def tile(self, level: int, index: int, color: str) -> np.ndarray:
        """Shades, coverages and flags of the cells of one tile, uint8 [3, rows, TILE]; coverage 255 is a full cell."""
        width, first = 1 << level, index * TILE << level
        last = min(first + (TILE << level), len(self.row))
        bars = np.flatnonzero(self.deleted[:last] > first)
        start = np.maximum(bars - first, 0)
        end = np.minimum(self.deleted[bars], last) - first
        row = self.row[bars]
        covered = self._spread(row, start, end, width, np.ones(len(bars)))
        shaded = self._spread(row, start, end, width, self.shade[color][bars].astype(np.float64))
        cells = np.zeros((3, self.rows, TILE), dtype=np.uint8)
        cells[0] = np.rint(shaded / np.maximum(covered, 1))
        full = width * self.lanes_per_row
        cells[1] = np.ceil(np.minimum(covered / full, 1) * 255)
        marked = self.relevant[bars]
        cells[2][self._spread(row[marked], start[marked], end[marked], width, np.ones(marked.sum())) > 0] |= RELEVANT
        born = bars >= first
        cells[2][row[born], start[born] // width] |= STARTS
        ending = self.evicted[bars] & (self.deleted[bars] <= last)
        cells[2][row[ending], (end[ending] - 1) // width] |= EVICTED
        return cells

    def _spread(
        self, row: np.ndarray, start: np.ndarray, end: np.ndarray, width: int, weight: np.ndarray
    ) -> np.ndarray:
        """Steps of each cell that bars cover, times their weight: the running sum along a row of what changes there."""
        columns = TILE + 2
        changes = np.zeros(self.rows * columns)
        for step, sign in ((start, weight), (end, -weight)):
            cell, into = row * columns + step // width, step % width
            changes += np.bincount(cell, sign * (width - into), minlength=len(changes))
            changes += np.bincount(cell + 1, sign * into, minlength=len(changes))
        return np.rint(changes.reshape(self.rows, columns).cumsum(1)[:, :TILE])


def series_tile(trace: EpisodeTrace, level: int, index: int) -> np.ndarray:
    """Curves over the columns of one tile, float32 [layers + 4, TILE], NaN past the end of the episode.

    Most live memories of each layer, mean of known values, total reward, relevant steps, steps with an event.
    """
    width, first = 1 << level, index * TILE << level
    last = min(first + (TILE << level), len(trace.relevant))
    curves = np.full((len(trace.layers) + 4, TILE), np.nan, dtype=np.float32)
    starts = np.arange(0, last - first, width)
    if not len(starts):
        return curves
    steps, columns = slice(first, last), slice(0, len(starts))
    for number, layer in enumerate(trace.layers):
        curves[number, columns] = np.maximum.reduceat(layer.live[steps], starts)
    values = trace.values[steps].astype(np.float64)
    known = np.add.reduceat(np.isfinite(values).astype(np.int64), starts)
    curves[-4, columns] = np.where(known, np.add.reduceat(np.nan_to_num(values), starts) / np.maximum(known, 1), np.nan)
    curves[-3, columns] = np.add.reduceat(trace.rewards[steps], starts)
    curves[-2, columns] = np.add.reduceat(trace.relevant[steps].astype(np.int64), starts)
    spoken = np.zeros(last - first, dtype=np.int64) if trace.events is None else (trace.events[steps] != "")
    curves[-1, columns] = np.add.reduceat(spoken.astype(np.int64), starts)
    return curves
