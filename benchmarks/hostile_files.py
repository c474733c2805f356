r"""Files that were damaged or made up: every one is refused in one line, or taken for exactly what it says.

Checkpoints (of six cores), config.json and recorded episodes are changed one at a time: bytes flipped, cut or added;
entries of the JSON replaced, removed or added; tensors and arrays of other types, shapes and values, with everything
else (lengths, the checkpoint's digest) made right again, as somebody would who wants the file to be read.  Each is read
as a user's command would, in a process of its own, which counts as

- refused: one line, no traceback;
- taken: what was read, written anew, says what the changed file says;
- a fault: anything else, such as a crash, a traceback, more than 2 s of processor time, or more than 200 MB above the
  file's size.

    python benchmarks/hostile_files.py --count 2000

The same with the C under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first access out
of bounds:

    gcc -g -O0 -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-psabi -shared -fPIC \
        memory/expire_span/kernels.c -o sanitized.so -lm
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 python benchmarks/hostile_files.py --count 2000 --library sanitized.so
"""

import contextlib
import io
import json
import os
import random
import resource
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import MISSING, Case, at, checkpoint_case, configuration_case, episode_case
from expirespan import evaluate, train_agent
from expirespan.agents.actions import environment_actions
from expirespan.agents.checkpoint.file import read_checkpoint
from expirespan.agents.checkpoint.model import describe
from expirespan.analysis import storage
from expirespan.cli.config import CHECKPOINT, parse, steps_of, to_json
from expirespan.cli.run_folder import CONFIGURATION
from expirespan.cli.stages import position
from expirespan.envs.make import BrokenEnvironment
from expirespan.memory.expire_span import compiled
from stable_baselines3.common.utils import obs_as_tensor
from trial import finish, parser

SECONDS, MEGABYTES = 2.0, 200
TRAIN = (
    "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 32 --batch-size 64 --width 16 --total-steps 256 "
    "--timeline-every 0"
)
CORES = {
    "expire-span": "--ff-width 16 --ramp 4 --max-span 40 --position-window 4",
    "lstm": "--core lstm",
    "transformer-xl": "--core transformer-xl --ff-width 16 --window 8",
    "gtrxl": "--core gtrxl --ff-width 16 --window 8",
    "adaptive-span": "--core adaptive-span --ff-width 16 --window 8 --ramp 2",
    "compressive": "--core compressive --ff-width 16",
}


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same, NaN like NaN and 1 like 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (one == other and isinstance(one, bool) == isinstance(other, bool)) or (one != one and other != other)


def read_run(case: Case, run: Path) -> str:
    """Resume a run folder as expirespan-train does, act for some steps; what differs from what the files say."""
    stages = train_agent.resumed(parse(["--resume", str(run)]), run)
    train_agent.check_device(stages[0].device or "cpu")
    torch.set_num_threads(stages[0].threads)
    where = position(run / CHECKPOINT)
    where.next_stage(steps_of(stages))
    number = where.stage
    model = train_agent.agent(stages, number, run)
    if case.kind == "config.json":
        return "" if not case.path else difference(json.loads(case.data), json.loads(to_json(stages)), case)
    said_tensors, said = read_checkpoint(run / CHECKPOINT)
    tensors, found = describe(model)
    if case.path and (differs := difference(said, json.loads(json.dumps(found)), case)):
        return differs
    name = case.tensor
    # Of the generator's state, bytes that torch never reads aren't kept.
    if (
        name in said_tensors
        and not name.startswith("random/")
        and not (name in tensors and torch.equal(tensors[name], said_tensors[name]))
    ):
        return f"{name} is another"
    act(model)
    return ""


def difference(said: Any, found: Any, case: Case) -> str:
    """How what was read differs from what stands in the file; an entry that is gone may be read as it was."""
    if case.path[:1] == ("threads",):  # what is written anew tells of this process
        return ""
    one, other = at(said, case.path), at(found, case.path)
    if one is MISSING and same(case.was, other):
        return ""
    return "" if same(one, other) else f"{str(one)[:80]} was read as {str(other)[:80]}"


def act(model: Any) -> None:
    """Some steps from where the episodes stand."""
    env, policy = model.env, model.policy
    obs = model._last_obs if model._last_obs is not None else env.reset()
    state = model._memory if model._memory is not None else policy.initial_state(env.num_envs)
    starts = torch.as_tensor(
        model._last_episode_starts if model._last_episode_starts is not None else np.ones(env.num_envs, dtype=bool)
    )
    for _ in range(4):
        with torch.no_grad():
            actions, _, _, state = policy(obs_as_tensor(obs, torch.device("cpu")), state, starts)
        obs, _, dones, _ = env.step(environment_actions(policy, actions))
        starts = torch.as_tensor(dones)


def read_episode(case: Case, run: Path) -> str:
    """Read a recorded episode; what differs from what the file says."""
    arrays = storage.to_arrays(storage.load(run / "episode.npz"))
    with np.load(io.BytesIO(case.data)) as archive:
        for name in archive.files:
            said, read = archive[name], arrays.get(name, np.empty(0))
            if not np.array_equal(read, said, equal_nan=said.dtype.kind == "f"):
                return f"{name} was not read"
    return ""


def outcome(case: Case, folder: Path, run: Path) -> tuple[str, str]:
    """What became of a changed file: refused, taken or a fault, and what was said."""
    for name in (CHECKPOINT, CONFIGURATION):
        (folder / name).write_bytes((run / name).read_bytes())
    name = {"config.json": CONFIGURATION, "episode": "episode.npz"}.get(case.kind, CHECKPOINT)
    (folder / name).write_bytes(case.data)
    said = folder / "said"
    child = os.fork()
    if not child:
        in_child(case, folder, said)
    _, status, usage = os.wait4(child, 0)
    seconds, words = usage.ru_utime + usage.ru_stime, said.read_text().strip()
    if os.WIFSIGNALED(status):
        return "fault", f"signal {os.WTERMSIG(status)}"
    code, most = os.WEXITSTATUS(status), usage.ru_maxrss / 1024 - idle_megabytes() - len(case.data) / 2**20
    if seconds > SECONDS:
        return "fault", f"{seconds:.1f} s: {words[:200]}"
    if most > MEGABYTES:
        return "fault", f"{most:.0f} MB: {words[:200]}"
    if code == 3 and "\n" not in words and words:
        return "refused", words
    return ("taken", "") if code == 0 else ("fault", words[-600:])


def idle_megabytes() -> float:
    """What this process takes, and so any copy of it that does nothing."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(case: Case, folder: Path, said: Path) -> None:
    """Read the file, and end the process with what came of it."""
    code = 5
    try:
        signal.alarm(60)
        with said.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                read = read_episode if case.kind == "episode" else read_run
                differs = read(case, folder)
                print(differs, end="")
                code = 4 if differs else 0
            except (ValueError, FileNotFoundError, BrokenEnvironment) as error:
                print(str(error), end="")  # as train_agent.main says it
                code = 3
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def make_runs(folder: Path) -> dict[str, Path]:
    """A small trained run of each core, the first with a recorded episode."""
    runs = {}
    for name, options in CORES.items():
        runs[name] = folder / name
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train_agent.main(f"{TRAIN} {options} --out {runs[name]}".split())
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate.main(f"{runs['expire-span']} --episodes 1 --record 1 --attention".split())
    return runs


def cases(runs: dict[str, Path], count: int, seed: int) -> Iterator[tuple[int, Case, Path]]:
    """Changed files, each with its number and the run that it belongs to; what a number changes hangs on no other."""
    first = runs["expire-span"]
    episode = next((first / "episodes").glob("*.npz")).read_bytes()
    checkpoints = [(partial(checkpoint_case, (run / CHECKPOINT).read_bytes(), name), run) for name, run in runs.items()]
    makers: list[tuple[Callable[[random.Random], Case], Path]] = [
        *checkpoints,
        checkpoints[0],
        *[(partial(configuration_case, (first / CONFIGURATION).read_bytes()), first)] * 2,
        (partial(episode_case, episode), first),
    ]
    for number in range(count):
        make, run = makers[number % len(makers)]
        yield number, make(random.Random(f"{seed} {number}")), run


def main(count: int, seed: int = 0) -> list[str]:
    """Try so many changed files; the faults."""
    torch.set_num_threads(1)
    faults, counts = [], Counter()
    with tempfile.TemporaryDirectory() as name:
        runs = make_runs(Path(name))
        for number, case, run in cases(runs, count, seed):
            folder = Path(name) / "tried"
            folder.mkdir(exist_ok=True)
            what, words = outcome(case, folder, run)
            counts[case.kind, what] += 1
            if what == "fault":
                faults.append(f"{number} {case.kind}, {case.change}: {words}")
    for (kind, what), found in sorted(counts.items()):
        print(f"{kind}: {what} {found}")
    return faults


if __name__ == "__main__":
    arguments = parser(__doc__, 2000, "files")
    arguments.add_argument("--library", type=Path, help="another build of kernels.c")
    options = arguments.parse_args()
    if options.library is not None:
        library = compiled.load(options.library)
        assert library is not None, f"{options.library} can't be loaded"
        compiled.library = lambda: library
    finish(main(options.count, options.seed), options.count, "files")
