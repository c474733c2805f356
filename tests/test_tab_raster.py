"""Lanes, tiles and curves of the tab, against loops over memories and steps."""

from dataclasses import replace

import numpy as np
import pytest
from expirespan.tab.raster import (
    EVICTED,
    MOST_ROWS,
    RELEVANT,
    STARTS,
    TILE,
    LayerBars,
    assign_lanes,
    series_tile,
    shades,
)
from recordings import made_up

STEPS = 1301


def test_no_two_memories_of_a_lane_overlap_and_no_lane_is_wasted() -> None:
    deleted = made_up(STEPS, 1).layers[0].deleted
    lane, count = assign_lanes(deleted)
    free = np.zeros(count, dtype=int)
    for written, (place, gone) in enumerate(zip(lane, deleted, strict=True)):
        assert free[place] <= written
        free[place] = gone
    assert set(lane) == set(range(count))
    everything = np.full(7, 7)
    assert assign_lanes(everything)[0].tolist() == list(range(7))


def test_shades_grow_with_the_value() -> None:
    assert shades(np.array([0.0, np.e - 1, np.e**2 - 1])).tolist() == [1, 128, 255]
    assert shades(np.array([4.0, 4.0])).tolist() == [1, 1]


@pytest.mark.parametrize(("level", "index"), [(0, 0), (0, 2), (1, 1), (3, 0)])
def test_a_tile_shows_what_a_loop_over_its_steps_finds(level: int, index: int) -> None:
    trace = made_up(STEPS, 1)
    bars = LayerBars.of(trace.layers[0], trace.relevant)
    cells = bars.tile(level, index, "attention")
    width = 2**level
    covered, flags = np.zeros((bars.rows, TILE)), np.zeros((bars.rows, TILE), dtype=np.uint8)
    shaded = np.zeros((bars.rows, TILE))
    for memory in range(STEPS):
        for step in range(memory, bars.deleted[memory]):
            column = step // width - index * TILE
            if not 0 <= column < TILE:
                continue
            place = bars.row[memory], column
            covered[place] += 1
            shaded[place] += bars.shade["attention"][memory]
            flags[place] |= RELEVANT if trace.relevant[memory] else 0
            flags[place] |= STARTS if step == memory else 0
            flags[place] |= EVICTED if trace.layers[0].evicted[memory] and step == bars.deleted[memory] - 1 else 0
    np.testing.assert_array_equal(cells[1], np.ceil(covered / width * 255))
    np.testing.assert_array_equal(cells[0], np.rint(shaded / np.maximum(covered, 1)))
    np.testing.assert_array_equal(cells[2], flags)


def test_many_lanes_share_rows() -> None:
    trace = made_up(STEPS, 1, full=False)
    layer = trace.layers[0]
    hoarded = LayerBars.of(
        type(layer)(span=layer.span, deleted=np.full(STEPS, STEPS), evicted=layer.evicted & False, live=layer.live),
        trace.relevant,
    )
    assert hoarded.rows <= MOST_ROWS and hoarded.rows * hoarded.lanes_per_row >= STEPS
    assert list(hoarded.shade) == ["span"]
    assert hoarded.tile(2, 0, "span")[1].max() == 255


def test_curves_are_maxima_means_and_sums_of_their_columns() -> None:
    trace = made_up(STEPS, 2)
    curves = series_tile(trace, 2, 0)
    last = -(-STEPS // 4) - 1
    assert curves.shape == (6, TILE)
    assert curves[0, 3] == trace.layers[0].live[12:16].max()
    assert curves[1, last] == trace.layers[1].live[last * 4 :].max()
    assert curves[2, 3] == pytest.approx(trace.values[12:16].mean())
    assert curves[3, last] == 1 and curves[4, 3] == trace.relevant[12:16].sum() and curves[5, 0] == 1
    assert np.isnan(curves[:, last + 1 :]).all() and np.isfinite(curves[:, : last + 1]).all()


def test_the_value_of_a_column_is_the_mean_of_those_that_are_known() -> None:
    values = np.array([1, np.nan, 3, 5, np.nan, np.nan, np.nan, np.nan, 2], dtype=np.float32)
    curves = series_tile(replace(made_up(9, 1), values=values), 2, 0)
    np.testing.assert_array_equal(curves[-4, :4], [3, np.nan, 2, np.nan])
