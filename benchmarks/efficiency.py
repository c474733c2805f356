"""Milliseconds and memory of a training update: every core, and Expire-Span written down densely, at equal sizes.

An update is one segment of a sequence model: forward, backward and a step of Adam, by `sequences.training`, from a
memory that holds `--live` memories a layer; those of Expire-Span may be spread over a longer context
(`held_memory.py`).  All cores of a width and a number of memories take turns, round after round, in one process and one
thread; milliseconds are medians of processor time.  Megabytes are the peak of two updates over what a process of its
own held before the model was made, the smaller of two tries: weights, gradients, Adam's moments and the memory are in
it (Linux; with `--device cuda` it is the most that torch has allocated).

    python benchmarks/efficiency.py                  # all, to docs/data/efficiency.csv
    python benchmarks/efficiency.py --cores expire-span dense --widths 128 --live 500
    python benchmarks/efficiency.py --table

What is in the CSV isn't measured again.
"""

import argparse
import csv
import multiprocessing
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from core_cost import FIXED, forget_peak, resident
from expirespan.sequences.training import SequenceTrainer
from held_memory import Size, in_training, size

RESULTS = Path(__file__).parents[1] / "docs" / "data" / "efficiency.csv"
SLOTS = ("expire-span", "dense", "transformer-xl", "gtrxl", "adaptive-span", "compressive")
FIELDS: tuple[str, ...] = (*Size._fields, "layers", "rows", "device", "milliseconds", "megabytes", "commit")
BESIDE = ("width", "live", "context", "layers", "rows", "device", "commit")
"""What lines that are compared have in common."""


def milliseconds(trainer: SequenceTrainer) -> float:
    """Of one update: processor time, or on a GPU time on the clock."""
    gpu = trainer.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    begun = clock()
    trainer.update()  # waits for the GPU, as it reads the loss
    return 1e3 * (clock() - begun)


def peak(of: Size, rows: int, layers: int, device: str) -> float:
    """Megabytes of two updates, in this process, which must be a new one."""
    torch.set_num_threads(1)
    in_training(size("none", 8, 0), rows, 1, device)[0].update()  # what torch needs whatever the model
    before = forget_peak()
    trainer, _ = in_training(of, rows, layers, device)
    forget_peak()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        trainer.update()
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident("VmHWM") - before


def peaks(sizes: list[Size], *shape: Any) -> dict[Size, float]:
    """`peak` of each, every time in a copy of this process, which must have done nothing but import.

    The smaller one of two copies: once in a while the allocator keeps half as much again.
    """
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        found = pool.starmap(peak, [(of, *shape) for of in sizes for _ in range(2)], chunksize=1)
    return dict(zip(sizes, map(min, found[::2], found[1::2]), strict=True))


def times(sizes: Iterable[Size], rounds: int, *shape: Any) -> dict[Size, float]:
    """Median milliseconds of an update of each; they take turns.  `shape`: rows, layers, device."""
    made = {of: in_training(of, *shape) for of in sizes}
    for of, (_, live) in made.items():
        if live and abs(live / of.live - 1) > 0.05:
            raise ValueError(f"Expect {of.live} live memories, actual: {live} in {of}")
    spent: dict[Size, list[float]] = {of: [] for of in made}
    for _ in range(rounds + 1):
        for of, (trainer, _) in made.items():
            spent[of].append(milliseconds(trainer))
    return {of: median(taken[1:]) for of, taken in spent.items()}  # the first round warms up


def lines(results: Path) -> list[dict[str, str]]:
    """What the CSV holds."""
    if not results.is_file():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def run(wanted: Iterable[list[Size]], rounds: int, results: Path, *shape: Any) -> None:
    """Measure what isn't in the CSV yet: first the memory of all, then their times, group by group."""
    known = {tuple(line[name] for name in FIELDS[:7]) for line in lines(results)}
    rows, layers, device = shape
    groups = [[of for of in group if tuple(map(str, (*of, layers, rows, device))) not in known] for group in wanted]
    megabytes = peaks([of for group in groups for of in group], *shape)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    results.parent.mkdir(parents=True, exist_ok=True)
    for group in groups:
        for of, milliseconds in times(group, rounds, *shape).items():
            values = (*of, layers, rows, device, round(milliseconds, 1), round(megabytes[of], 1), commit)
            print(*values, flush=True)
            new = not results.is_file()
            with results.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([FIELDS, values] if new else [values])


def groups(cores: list[str], widths: list[int], lives: list[int], contexts: list[int]) -> Iterator[list[Size]]:
    """What takes turns: all cores of a width, those of a fixed size by themselves, the others by live memories."""
    for width in widths:
        yield [size(core, width, 0) for core in cores if core in FIXED]
        for live in lives:
            reaches = (None, *(context for context in contexts if context > live))
            slots = [core for core in cores if core not in FIXED]
            yield list(dict.fromkeys(size(core, width, live, context) for context in reaches for core in slots))


def table(results: Path) -> Iterator[str]:
    """The CSV as a Markdown table, with what each core takes beside the dense Expire-Span of the same memories.

    Only what was measured at the same commit, and so side by side, is compared.
    """
    found = sorted(lines(results), key=lambda line: [int(line[name]) for name in ("width", "live", "context")])
    dense = {tuple(of[name] for name in BESIDE): of for of in found if of["core"] == "dense"}
    yield "| width | live memories | context | core | ms | MB | time / dense | memory / dense |"
    yield "|---|---|---|---|---|---|---|---|"
    for line in found:
        beside = dense.get(tuple(line[name] for name in BESIDE))
        cells = [line["width"], *(f"{int(line[name]):,}" if line[name] != "0" else "" for name in ("live", "context"))]
        cells += [line["core"], *(f"{float(line[name]):,.0f}" for name in ("milliseconds", "megabytes"))]
        for name in ("milliseconds", "megabytes"):
            cells.append(f"{float(line[name]) / float(beside[name]):.2f}" if beside else "")
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", default=[*SLOTS, *FIXED], choices=[*SLOTS, *FIXED], metavar="CORE")
    parser.add_argument("--widths", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--live", nargs="+", type=int, default=[100, 500, 2000])
    parser.add_argument("--contexts", nargs="*", type=int, default=[2_048, 65_536], help="beside the shortest")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what the CSV holds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        print(*table(options.results), sep="\n")
    else:
        chosen = groups(options.cores, options.widths, options.live, options.contexts)
        run(chosen, options.rounds, options.results, options.rows, options.layers, options.device)


if __name__ == "__main__":
    main()
