"""What each core costs at equal numbers of live memories and equal widths: steps a second and memory.

A training segment is 128 steps of 8 environments, forward and backward, from a state that holds as many memories as
asked for; an acting step is one of 32 environments, without gradient.  All cores take turns, round after round, in one
process and one thread; the figures are medians over the rounds.  Peak memory is what a process of its own needs for one
training segment beyond what it held before it (Linux alone).

    python benchmarks/core_cost.py            # all, to docs/data/core_cost.csv
    python benchmarks/core_cost.py --live 16 64 --widths 64 --rounds 3
    python benchmarks/core_cost.py --table

Cores whose state has a fixed size are measured once for each width.
"""

import argparse
import csv
import ctypes
import gc
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from expirespan.memory import Record, core_config

RESULTS = Path(__file__).parents[1] / "docs" / "data" / "core_cost.csv"
ROWS, STEPS, ACTING_ROWS, ACTING_STEPS = 8, 128, 32, 20
FIXED = ("lstm", "gru", "min-gru", "gated-delta-net", "none")
FIELDS: tuple[str, ...] = ("core", "width", "live", "training", "acting", "megabytes")


def settings(core: str, width: int, live: int) -> dict[str, Any]:
    """Of a core that holds so many live memories once an episode is long enough."""
    shape: dict[str, Any] = {"width": width}
    if core == "none":
        return shape | {"ff_width": 2 * width}
    if core in ("lstm", "gru"):
        return shape
    shape["ff_width"] = 2 * width
    if core == "expire-span":
        ramp = min(16, live // 4)
        return shape | {"max_span": live - ramp, "ramp": ramp, "initial_span": 0.999}
    if core in ("transformer-xl", "gtrxl"):
        return shape | {"window": live - 1}
    if core == "adaptive-span":
        return shape | {"window": live - 1, "initial_span": 0.999}
    if core == "compressive":
        return shape | {"window": live // 2 - 1, "compressed": live // 2, "rate": 4}
    return shape


class Timed:
    """A core with a full memory, ready to be timed."""

    def __init__(self, core: str, width: int, live: int) -> None:
        torch.manual_seed(0)
        self.core = core_config(core, settings(core, width, live)).build()
        self.x = torch.randn(ROWS, STEPS, width, requires_grad=True)
        self.resets = torch.zeros(ROWS, STEPS, dtype=torch.bool)
        self.acting = torch.randn(ACTING_ROWS, 1, width)
        with torch.no_grad():
            self.state = self._filled(ROWS, width, live)
            self.acting_state = self._filled(ACTING_ROWS, width, live)
        trace = self.core(self.x, self.state, self.resets, record=Record.TRACE).trace
        self.live = max(int(layer.live.max()) for layer in trace) if trace else 0

    def _filled(self, rows: int, width: int, live: int) -> Any:
        """The state after an episode in which every memory's place was taken, several times where steps are merged."""
        state = self.core.initial_state(rows)
        for _ in range(-(-4 * live // STEPS) + 1):
            x, resets = torch.randn(rows, STEPS, width), torch.zeros(rows, STEPS, dtype=torch.bool)
            state = self.core(x, state, resets).state
        return state.compact()

    def train(self) -> float:
        """Steps a second of a training segment."""
        begun = time.perf_counter()
        output = self.core(self.x, self.core.refresh(self.state), self.resets, record=Record.LOSSES)
        output.y.square().mean().backward()
        return ROWS * STEPS / (time.perf_counter() - begun)

    def act(self) -> float:
        """Steps a second of acting."""
        state, resets = self.acting_state, torch.zeros(ACTING_ROWS, 1, dtype=torch.bool)
        begun = time.perf_counter()
        with torch.no_grad():
            for _ in range(ACTING_STEPS):
                state = self.core(self.acting, state, resets).state
        return ACTING_ROWS * ACTING_STEPS / (time.perf_counter() - begun)


def peak(core: str, width: int, live: int) -> float:
    """Megabytes that a process of its own needs for a training segment, beyond those before it."""
    command = [sys.executable, __file__, "--peak", core, str(width), str(live)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(core: str, width: int, live: int) -> float:
    """`peak`, in this process."""
    torch.set_num_threads(1)
    timed = Timed(core, width, live)
    before = forget_peak()
    timed.train()
    return resident("VmHWM") - before


def forget_peak() -> float:
    """Let `resident("VmHWM")` be the peak from now on; the megabytes of now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, or a segment would take it first
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(entry: str) -> float:
    """Megabytes of this process: VmRSS of now, VmHWM at most."""
    return int(re.search(rf"{entry}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # pyright: ignore[reportOptionalSubscript]  # Linux has both


def run(cores: list[str], widths: list[int], lives: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """All figures."""
    torch.set_num_threads(1)
    for width in widths:
        keys = [(core, live) for core in cores for live in (lives if core not in FIXED else lives[:1])]
        timed = {(core, live): Timed(core, width, live) for core, live in keys}
        speeds: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in keys}
        for _ in range(rounds + 1):
            for key in keys:
                speeds[key].append((timed[key].train(), timed[key].act()))
        for core, live in keys:
            training, acting = zip(*speeds[core, live][1:], strict=True)  # the first round warms up
            yield {
                "core": core,
                "width": width,
                "live": timed[core, live].live or "",
                "training": round(median(training)),
                "acting": round(median(acting)),
                "megabytes": round(peak(core, width, live), 1),
            }


def table(results: Path) -> Iterator[str]:
    """The CSV as a Markdown table."""
    yield "| width | core | live memories | training, steps/s | acting, steps/s | peak MB of a segment |"
    yield "|---|---|---|---|---|---|"
    with results.open(newline="") as file:
        for line in csv.DictReader(file):
            speeds = " | ".join(f"{int(line[name]):,}" for name in ("training", "acting"))
            yield f"| {line['width']} | {line['core']} | {line['live']} | {speeds} | {line['megabytes']} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    slots = ["expire-span", "transformer-xl", "gtrxl", "adaptive-span", "compressive"]
    parser.add_argument("--cores", nargs="+", default=[*slots, *FIXED], metavar="CORE")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--live", nargs="+", type=int, default=[16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what the CSV holds")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        core, width, live = options.peak
        print(measure(core, int(width), int(live)))
        return
    if not options.table:
        lines = []
        for line in run(options.cores, options.widths, options.live, options.rounds):
            print(*line.values(), flush=True)
            lines.append(line)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    else:
        print(*table(options.results), sep="\n")


if __name__ == "__main__":
    main()
