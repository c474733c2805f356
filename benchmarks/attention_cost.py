"""A training segment of one Expire-Span layer, its attention in C and in PyTorch: milliseconds of processor time.

A segment is 256 steps of 2 rows, forward and backward, with the penalty, from a state that holds as many memories as
asked for, all of them visible.  C looks at the pairs of a step and a memory that can see each other, PyTorch computes
all pairs; the rest of the layer is PyTorch's in both.  They take turns, round after round, in one process and one
thread; the figures are the fastest of the rounds.

    python benchmarks/attention_cost.py            # all, to docs/data/attention_cost.csv
    python benchmarks/attention_cost.py --table
"""

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from expirespan.memory import ExpireSpan, ExpireSpanConfig, ExpireSpanState, Record
from expirespan.memory.expire_span import compiled

RESULTS = Path(__file__).parents[1] / "docs" / "data" / "attention_cost.csv"
ROWS, STEPS = 2, 256
FIELDS: tuple[str, ...] = ("width", "live", "c", "torch")


def full(width: int, live: int) -> tuple[ExpireSpan, ExpireSpanState]:
    """A core of one layer, and its state after an episode in which every memory's place was taken."""
    shape: dict[str, Any] = {"layers": 1, "width": width, "ff_width": 2 * width}
    core = ExpireSpanConfig(max_span=live, ramp=1.0, initial_span=1 - 1e-9, **shape).build()
    state, resets = core.initial_state(ROWS), torch.zeros(ROWS, STEPS, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(live // STEPS + 1):
            state = core(torch.randn(ROWS, STEPS, width), state, resets).state
            assert state is not None
    return core, state.compact()


def segment(core: ExpireSpan, state: ExpireSpanState) -> float:
    """Milliseconds of a segment, forward and backward."""
    x, resets = torch.randn(ROWS, STEPS, core.width), torch.zeros(ROWS, STEPS, dtype=torch.bool)
    begun = time.process_time()
    output = core(x, core.refresh(state), resets, record=Record.STATE | Record.LOSSES | Record.TRACE)
    (output.y.square().mean() + output.losses["penalty"]).backward()
    return 1e3 * (time.process_time() - begun)


def run(widths: list[int], lives: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """All figures."""
    torch.set_num_threads(1)
    built = compiled.library()
    assert built is not None, "there is no library to compare with"
    for width in widths:
        for live in lives:
            core, state = full(width, live)
            spent: dict[str, list[float]] = {"c": [], "torch": []}
            for _ in range(rounds):
                for name, library in (("c", built), ("torch", None)):
                    compiled.library = lambda library=library: library
                    spent[name].append(segment(core, state))
            yield {"width": width, "live": live} | {name: round(min(times), 1) for name, times in spent.items()}


def table(results: Path) -> Iterator[str]:
    """The CSV as a Markdown table."""
    yield "| width | live memories | in C, ms | in PyTorch, ms | ratio |"
    yield "|---|---|---|---|---|"
    with results.open(newline="") as file:
        for line in csv.DictReader(file):
            ratio = float(line["c"]) / float(line["torch"])
            yield f"| {line['width']} | {int(line['live']):,} | {line['c']} | {line['torch']} | {ratio:.2f} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--live", nargs="+", type=int, default=[20, 100, 500, 2000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what the CSV holds")
    options = parser.parse_args()
    if not options.table:
        with options.results.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            for line in run(options.widths, options.live, options.rounds):
                print(*line.values(), flush=True)
                writer.writerow(line)
    print(*table(options.results), sep="\n")


if __name__ == "__main__":
    main()
