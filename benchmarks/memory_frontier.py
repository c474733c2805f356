"""The paper's comparison: what every core earns beside what its memory holds and costs, at several sizes.

Every core is trained by the same algorithm with the same defaults, steps and seeds; what differs is the core and how
much it may keep (frontier_tasks.py).  Each is trained by `expirespan-train` or `expirespan-train-sequence` into a run
folder and evaluated by `expirespan-evaluate` on episodes, or text, that training never saw.  Runs that have ended are
lines of the CSV and aren't run again; one that was stopped goes on where it stopped.

    python benchmarks/memory_frontier.py corridor --jobs 2
    python benchmarks/memory_frontier.py corridor --cores expire-span transformer-xl --seeds 0 1
    python benchmarks/memory_frontier.py --table
    python benchmarks/memory_frontier.py --figures

The CSV: score, score on a longer task where there is one, live memories (the mean over the layers, and the most in
one), bytes of one row's state (`State.tensors`, the mean over steps), and milliseconds of a step, measured once all
runs asked for have ended, in turn: an agent's step with one environment, a sequence's share of a window of one row.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib
from expirespan.memory import CORES
from frontier_tasks import TASKS

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, FOLDER = DOCS / "data" / "memory_frontier.csv", Path("runs/frontier")
SEEDS = (0, 1, 2)
FIELDS: tuple[str, ...] = (
    "task",
    "core",
    "setting",
    "seed",
    "steps",
    "minutes",
    "score",
    "beyond",
    "live",
    "most",
    "bytes",
    "milliseconds",
)
ROUNDS = 5
"""How often a step's cost is measured."""

Key = tuple[str, str, str, int]
"""Task, core, setting and seed."""


def folder(key: Key) -> Path:
    """Where a run is."""
    return FOLDER / "-".join(str(part).replace("--", "").replace(" ", "-") for part in key)


def measure(key: Key) -> dict[str, Any]:
    """Train and evaluate, or what is left of it: a line of the CSV, without milliseconds."""
    name, core, setting, seed = key
    task, run = TASKS[name], folder(key)
    spent = task.train(core, setting, seed, run)
    found = task.evaluate(run)
    digits = {"score": 4, "beyond": 4, "live": 1}
    return {
        "task": name,
        "core": core,
        "setting": setting.removeprefix("--").replace(" --", ", "),
        "seed": seed,
        "steps": spent["steps"],
        "minutes": round(spent["minutes"], 2),
        **{key: round(value, digits[key]) if value != "" and key in digits else value for key, value in found.items()},
        "bytes": round(task.acted(run)[0]),
        "milliseconds": "",
    }


def finished(results: Path) -> list[dict[str, str]]:
    """The lines of the CSV."""
    if not results.is_file():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def write(results: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Replace the CSV."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def named(line: dict[str, Any]) -> Key:
    """Which run a line of the CSV is of."""
    setting = "--" + line["setting"].replace(", ", " --")
    return line["task"], line["core"], setting, int(line["seed"])


def run(keys: Sequence[Key], jobs: int, results: Path) -> None:
    """Train what the CSV doesn't have, and then time the steps of all runs that are there."""
    lines: list[dict[str, Any]] = list(finished(results))
    known = {named(line) for line in lines}
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measure, key) for key in keys if key not in known]
        try:
            for ended in as_completed(waiting):
                lines.append(ended.result())
                write(results, lines)
                print(*lines[-1].values(), flush=True)
        except BaseException:  # Ctrl-C as well: runs in progress save, nothing else is begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    here = [line for line in lines if named(line) in keys and folder(named(line)).is_dir()]
    times: list[list[float]] = [[] for _ in here]
    for _ in range(ROUNDS):
        for line, of_line in zip(here, times, strict=True):
            of_line.append(TASKS[line["task"]].acted(folder(named(line)))[1])
    for line, of_line in zip(here, times, strict=True):
        line["milliseconds"] = round(median(of_line), 3)
    write(results, lines)


def grouped(results: Path) -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """The lines of each task, core and setting, in the order of `TASKS`."""
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    lines = finished(results)
    for name, task in TASKS.items():
        for core, settings in task.sizes.items():
            for setting in settings:
                of_it = [line for line in lines if named(line)[:3] == (name, core, setting)]
                if of_it:
                    found[name, core, of_it[0]["setting"]] = of_it
    return found


def average(lines: Sequence[dict[str, str]], name: str) -> float | None:
    """The mean over seeds; None where nothing was measured."""
    values = [float(line[name]) for line in lines if line[name]]
    return mean(values) if values else None


def table(results: Path) -> Iterator[str]:
    """The CSV as a Markdown table for each task."""
    of_task = ""
    for (name, core, setting), lines in grouped(results).items():
        if name != of_task:
            of_task = name
            yield f"\n{name}\n"
            yield "| core | setting | score, by seed | worst | longer | live a layer | most | kB of state | ms a step |"
            yield "|---|---|---|---|---|---|---|---|---|"
        lines = sorted(lines, key=lambda line: int(line["seed"]))
        scores = [float(line["score"]) for line in lines]
        live, size, spent = (average(lines, name) for name in ("live", "bytes", "milliseconds"))
        most = max((int(line["most"]) for line in lines if line["most"]), default=None)
        cells = [
            ", ".join(f"{score:.3f}" for score in scores),
            f"{worst(name, scores):.3f}",
            ", ".join(f"{float(line['beyond']):.3f}" for line in lines if line["beyond"]),
            "" if live is None else f"{live:.1f}",
            "" if most is None else str(most),
            "" if size is None else f"{size / 1e3:.1f}",
            "" if spent is None else f"{spent:.2f}",
        ]
        yield f"| {core} | {setting} | {' | '.join(cells)} |"


def worst(name: str, scores: Sequence[float]) -> float:
    """Of a task's scores."""
    return max(scores) if TASKS[name].least_is_best else min(scores)


AXES = {"live": "mean live memories a layer", "bytes": "bytes of state", "milliseconds": "milliseconds a step"}


def figures(results: Path) -> Iterator[Path]:
    """A picture for each task: score against what the memory holds and costs; a line joins the sizes of a core."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    found = grouped(results)
    for task in dict.fromkeys(task for task, _, _ in found):
        figure, panels = plt.subplots(1, len(AXES), figsize=(13, 4), sharey=True, layout="constrained")
        for panel, (name, said) in zip(panels, AXES.items(), strict=True):
            for number, core in enumerate(CORES):
                groups = [lines for (of, which, _), lines in found.items() if (of, which) == (task, core)]
                points = [(average(lines, name), [float(line["score"]) for line in lines]) for lines in groups]
                points = sorted((at, scores) for at, scores in points if at is not None)
                if not points:
                    continue
                style = {"color": f"C{number}", "marker": "osD^vP*X<>"[number], "label": core}
                panel.plot([at for at, _ in points], [mean(scores) for _, scores in points], **style)
                for at, scores in points:  # from the worst seed to the best
                    panel.plot([at, at], [min(scores), max(scores)], color=f"C{number}", linewidth=0.8)
            panel.set_xscale("log")
            low, high = panel.get_xlim()
            panel.set_xlim(low / 1.5, high * 1.5)  # differences within the noise look small
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel(said)
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("bits" if TASKS[task].least_is_best else "score")
        panels[1].legend(fontsize=7)
        figure.suptitle(f"{task}: mean of the seeds, and from the worst to the best")
        path = DOCS / f"frontier-{task}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        yield path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=list(CORES), metavar="CORE")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one core each")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what the CSV holds")
    parser.add_argument("--figures", action="store_true", help="draw what the CSV holds")
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"Expect tasks among {', '.join(TASKS)}, actual: {', '.join(sorted(unknown))}")
    keys = [
        (task, core, setting, seed)
        for task in options.tasks
        for seed in options.seeds
        for core in options.cores
        for setting in TASKS[task].sizes.get(core, ())
    ]
    if keys:
        run(keys, options.jobs, options.results)
    if options.table:
        print(*table(options.results), sep="\n")
    if options.figures:
        for path in figures(options.results):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
