"""Trainings that are killed at random moments and resumed: nothing that was checkpointed is lost, nothing is stale.

A small run is trained to its end while SIGKILL, SIGTERM, SIGINT or SIGHUP hits it every few tenths of a second, each
time resumed by `expirespan-train --resume`.  After each kill the checkpoint can be read and is not older than the one
before; after a signal that can be caught it holds every step that was trained.  At the end the folder holds no
unfinished file, and weights, optimizer, memory, environments and TensorBoard's curves are, to the bit, those of a run
that nobody killed.  With several processes the signal hits any of them, or what started them, and afterwards none is
left.

    python benchmarks/kills.py --count 1000
    python benchmarks/kills.py --count 50 --workers 2
"""

import contextlib
import logging
import os
import random
import re
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from expirespan import train_agent
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.cli.config import CHECKPOINT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trial import finish, parser

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TRAIN = (
    "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 16 --batch-size 32 --width 16 --ff-width 16 --ramp 4 "
    "--max-span 40 --checkpoint-every 128 --timeline-every 1024 --total-steps 2560"
)


def begin(arguments: list[str], said: Path) -> int:
    """Run expirespan-train in a copy of this process, which has imported everything; its number."""
    child = os.fork()
    if child:
        return child
    code = 5
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with said.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            for stream in (1, 2):  # of processes that it starts
                os.dup2(file.fileno(), stream)
            try:
                train_agent.main(arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
                if not isinstance(end.code, int):
                    print(end.code)
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def steps_of(run: Path) -> int:
    """Steps of a run's checkpoint; 0 where it has none.  Raises ValueError where it can't be read."""
    file = run / CHECKPOINT
    return read_checkpoint(file)[1]["num_timesteps"] if file.is_file() else 0


def started_by(parent: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, its_parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def left_running(numbers: list[int], seconds: float = 60) -> list[int]:
    """Those of the processes that still run after a while."""
    until = time.monotonic() + seconds
    while (left := [number for number in numbers if Path(f"/proc/{number}").exists()]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def killed(run: Path, arguments: list[str], draw: random.Random, counts: Counter) -> tuple[bool, str]:
    """Train, and send a signal after a while: whether the training came to its end, and what was wrong."""
    said, before = run.with_suffix(".said"), steps_of(run)
    said.write_text("")
    child, number = begin(arguments, said), draw.choice(SIGNALS)
    begun = time.monotonic()
    if draw.random() < 0.8:  # what comes before training takes longer than some of the training
        while "Training into" not in said.read_text() and time.monotonic() < begun + 30:
            time.sleep(0.02)
    time.sleep(draw.expovariate(1 / 0.3))
    others = started_by(child)
    hit = draw.choice([child, *others])
    with contextlib.suppress(ProcessLookupError):
        os.kill(hit, number)
    _, status = os.waitpid(child, 0)
    if left := left_running(others):
        return False, f"{number.name}: {len(left)} processes are left"
    words = said.read_text()
    after = steps_of(run)
    counts[number.name, "by the signal" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"] += 1
    if after < before:
        return False, f"{number.name}: {before} steps became {after}"
    if os.WIFSIGNALED(status):
        return False, "" if os.WTERMSIG(status) == number else f"signal {os.WTERMSIG(status)} of itself"
    code = os.WEXITSTATUS(status)
    if hit != child and f"was ended by {number.name}" in words:
        return False, "" if code == 1 else f"exit {code}"
    if "expirespan-train: interrupted" in words and number == signal.SIGINT:  # before training began
        return False, "" if (code, after) == (130, before) else f"exit {code}, {before} steps became {after}"
    if code == 128 + number and "Training into" not in words:  # not all processes hear signals yet
        return False, "" if after == before else f"{number.name}: {before} steps became {after}"
    if code == 128 + number:
        stopped = re.search(r"Stopped and saved at ([\d,]+) steps", words)
        saved = stopped is not None and int(stopped[1].replace(",", "")) == after
        return False, "" if saved else f"{number.name}: saved {after} steps, said {words[-300:]}"
    return code == 0, "" if code == 0 else f"{number.name}: exit {code}, {words[-600:]}"


def differences(run: Path, whole: Path) -> str:
    """What a run that was killed has otherwise than one that was not."""
    tensors, others = (read_checkpoint(folder / CHECKPOINT)[0] for folder in (run, whole))
    if tensors.keys() != others.keys():
        return f"tensors are there in one alone: {sorted(tensors.keys() ^ others.keys())}"[:300]
    if other := [name for name in others if not torch.equal(tensors[name], others[name])]:
        return f"{len(other)} tensors are others, {other[0]} among them"
    if left := list(run.glob("*unfinished*")) + list(run.glob(".*unfinished*")):
        return f"unfinished: {left}"
    ours, theirs = curves(run), curves(whole)
    wrong = [tag for tag in theirs if ours.get(tag) != theirs[tag]]
    return f"{len(wrong)} curves are others, {wrong[0]} among them: {ours.get(wrong[0])}"[:300] if wrong else ""


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: steps and values by tag, times apart."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def main(count: int, seed: int = 0, workers: int = 1) -> list[str]:
    """Kill so many times; what was wrong."""
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # of the steps that it leaves out
    draw, counts, faults, kills, trained = random.Random(seed), Counter(), [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        while kills < count:
            run, whole = Path(name) / f"run{trained}", Path(name) / f"whole{trained}"
            first = [*TRAIN.split(), "--seed", str(trained), "--workers", str(workers)]
            os.waitpid(begin([*first, "--out", str(whole)], Path(name) / "said"), 0)
            ended = False
            while not ended:
                resumable = (run / "config.json").is_file()
                arguments = ["--resume", str(run)] if resumable else [*first, "--out", str(run)]
                ended, wrong = killed(run, arguments, draw, counts)
                kills += not ended
                if wrong:
                    faults.append(f"run {trained}: {wrong}")
                    break
            trained += 1
            if ended and (wrong := differences(run, whole)):
                faults.append(f"run {trained - 1}: {wrong}")
    for (number, what), found in sorted(counts.items()):
        print(f"{number}: {what} {found}")
    print(f"{kills} kills of {trained} trainings")
    return faults


if __name__ == "__main__":
    arguments = parser(__doc__, 1000, "kills")
    arguments.add_argument("--workers", type=int, default=1, help="processes of a training")
    options = arguments.parse_args()
    finish(main(options.count, options.seed, options.workers), options.count, "kills")
