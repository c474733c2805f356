r"""Files that were damaged or made up: every one is refused in one line, or taken for exactly what it says.

Checkpoints (of each core), config.json and recorded episodes are changed one at a time: bytes flipped, cut or added;
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

import argparse
import contextlib
import copy
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from expirespan import evaluate, train_agent
from expirespan.agents.actions import environment_actions
from expirespan.agents.checkpoint.file import DIGEST, digest, read_checkpoint
from expirespan.agents.checkpoint.model import describe
from expirespan.analysis import storage
from expirespan.cli.config import CHECKPOINT, CONFIGURATION, parse, steps_of, to_json
from expirespan.cli.stages import position
from expirespan.envs.make import BrokenEnvironment
from expirespan.memory.expire_span import compiled
from safetensors.torch import load, save
from stable_baselines3.common.utils import obs_as_tensor

SECONDS, MEGABYTES = 2.0, 200
TRAIN = (
    "--env expirespan/CorridorShort-v0 --num-envs 4 --n-steps 32 --batch-size 64 --width 16 --total-steps 256 "
    "--timeline-every 0"
)
CORES = {
    "expire-span": "--ff-width 16 --ramp 4 --max-span 40 --position-window 4",
    "lstm": "--core lstm",
    "transformer-xl": "--core transformer-xl --ff-width 16 --window 8",
    "compressive": "--core compressive --ff-width 16",
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1000, 10**6, 10**9, 10**12, 2**63, 2**70, -(2**70), 10**400),
    *(0.0, 0.5, -0.5, 1e-9, 1e9, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "none", "lstm", "cuda", "cpu", "../..", "é" * 100, "x" * 100_000),
    *([], [0], [1, 2, 3], [None] * 4, [[1]], [0] * 10_000, {}, {"x": 1}, {"type": "Box"}, {"class": "os:system"}),
)


@dataclass(frozen=True)
class Case:
    """A changed file: what was changed, its contents, and what must be true of what was read."""

    kind: str
    change: str
    data: bytes
    path: tuple[Any, ...] = ()
    """Of the entry of the document that was changed."""
    tensor: str = ""
    """Name of the tensor or array that was changed."""
    was: Any = None
    """What stood at the path before."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all entries of a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


MISSING = "nothing"


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a path; `MISSING` where there is nothing."""
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return MISSING
    return value


def changed_document(original: Any, draw: random.Random) -> tuple[Any, str, tuple[Any, ...], Any]:
    """A document with one entry replaced, removed or added: how, where, and what stood there before."""
    document = copy.deepcopy(original)
    *parents, key = path = draw.choice(list(places(document)))
    parent = at(document, tuple(parents))
    how = draw.choice(("replace",) * 6 + ("remove", "add", "nest", "scale"))
    if how == "remove":
        del parent[key]
    elif how == "add":
        added = draw.choice(VALUES)
        if isinstance(parent, dict):
            parent["added"], path = added, (*parents, "added")
        else:
            parent.append(added)
            path = (*parents, len(parent) - 1)
    elif how == "nest":
        for _ in range(draw.choice((1, 100, 500))):
            parent[key] = [parent[key]]
    elif how == "scale" and isinstance(parent[key], int | float):
        parent[key] = parent[key] * draw.choice((2, -1, 1000, 10**9)) if parent[key] is not True else 5
    else:
        parent[key] = draw.choice(VALUES)
    change = f"{how} {'.'.join(map(str, path))} to {str(at(document, path))[:60]}"
    return document, change, path, at(original, path)


def changed_bytes(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Bytes flipped, cut, zeroed, repeated or added."""
    how = draw.choice(("flip", "flip", "flip", "cut", "zero", "add", "repeat", "empty"))
    place = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 4096))
    size = draw.choice((1, 8, 100, 5000))
    if how == "flip":
        return data[:place] + bytes((data[place] ^ (1 << draw.randrange(8)),)) + data[place + 1 :], f"flip at {place}"
    if how == "cut":
        return data[:place], f"cut at {place}"
    if how == "zero":
        return data[:place] + bytes(min(size, len(data) - place)) + data[place + size :], f"{size} zeros at {place}"
    if how == "repeat":
        return data[:place] + data[max(place - size, 0) :], f"{size} repeated at {place}"
    return (b"", "empty") if how == "empty" else (data + draw.randbytes(size), f"{size} added")


def changed_array(array: np.ndarray, draw: random.Random) -> tuple[np.ndarray, str]:
    """An array of another type, shape or value."""
    how = draw.choice(("type", "shape", "value", "value", "value", "value", "short", "long", "empty", "noise"))
    if how == "type":
        to = draw.choice(("float32", "float64", "int32", "int64", "bool", "uint8", "int8", "float16"))
        with np.errstate(all="ignore"):
            return (array if array.dtype.kind != "U" else np.zeros(array.shape)).astype(to), f"as {to}"
    if how == "shape":
        return draw.choice((array[None], array.reshape(-1), array.reshape(1, -1))), "reshaped"
    if how == "noise" and array.dtype.kind != "U":
        return np.frombuffer(bytearray(draw.randbytes(array.nbytes)), array.dtype).reshape(array.shape), "noise"
    if how in ("short", "long", "empty") and array.ndim:
        part = {"short": array[:-1], "long": np.concatenate([array, array]), "empty": array[:0]}[how]
        return part, how
    array = array.copy()
    if array.size and array.dtype.kind in "fiub":
        limits = {
            "f": (np.nan, np.inf, 1e30, -1e30, 0.0, 0.5),
            "b": (True, False),
            "i": (-1, 0, 1, 5, 1000, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1),
            "u": (0, 1, 5, 255),
        }[array.dtype.kind]
        value = draw.choice(limits)
        place = draw.choice((slice(None), draw.randrange(array.size)))
        array.reshape(-1)[place] = value
        return array, f"{value} at {place if isinstance(place, int) else 'all'}"
    return array, "nothing"


def checkpoint_case(data: bytes, kind: str, draw: random.Random) -> Case:
    """A changed checkpoint."""
    how = draw.choice(("bytes", "document", "document", "tensor", "tensor", "names"))
    if how == "bytes":
        changed, change = changed_bytes(data, draw)
        return Case(kind, change, changed)
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    document, path, was, name = json.loads(header["document"]), (), None, ""
    if how == "document":
        document, change, path, was = changed_document(document, draw)
    elif how == "tensor":
        # As often as of the network, of what is not: there is less of it.
        some = [n for n in tensors if draw.random() < 0.5 or not n.startswith(("policy", "optimizer"))]
        group = draw.choice(("policy", "optimizer", "memory", "env", "last", "random"))
        name = draw.choice([n for n in some if n.startswith(group)] or list(tensors))
        array, change = changed_array(tensors[name].numpy(), draw)
        tensors[name], change = torch.from_numpy(np.array(array, order="C")), f"{name} {change}"
    else:
        name = draw.choice(list(tensors))
        if draw.random() < 0.5:
            del tensors[name]
            change = f"{name} removed"
        else:
            new = draw.choice((f"{name}x", "policy/x", "optimizer/9999.step", "optimizer/x.step", "memory/x", "env/x"))
            tensors[new] = tensors[name].clone()
            change, name = f"{new} added", new
    text = json.dumps(document)
    data = save(tensors, header | {"document": text, DIGEST: digest(tensors, text)})
    return Case(kind, change, data, path, name, was)


def configuration_case(data: bytes, draw: random.Random) -> Case:
    """A changed config.json."""
    if draw.random() < 0.2:
        changed, change = changed_bytes(data, draw)
        return Case("config.json", change, changed)
    document, change, path, was = changed_document(json.loads(data), draw)
    return Case("config.json", change, json.dumps(document).encode(), path, was=was)


def episode_case(data: bytes, draw: random.Random) -> Case:
    """A changed recorded episode."""
    if draw.random() < 0.3:
        changed, change = changed_bytes(data, draw)
        return Case("episode", change, changed)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = draw.choice(list(arrays))
    how = draw.random()
    if how < 0.1:
        del arrays[name]
        change = "removed"
    elif how < 0.2:
        arrays["added"], name, change = arrays[name], "added", "added"
    elif how < 0.3:
        arrays[name], change = np.zeros(draw.choice((10**8, 5 * 10**8)), np.uint8), "a bomb"
    else:
        arrays[name], change = changed_array(arrays[name], draw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return Case("episode", f"{name} {change}", file.getvalue(), tensor=name)


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


def cases(runs: dict[str, Path], count: int, seed: int) -> Iterator[tuple[Case, Path]]:
    """Changed files, each with the run that it belongs to."""
    draw = random.Random(seed)
    first = runs["expire-span"]
    episode = next((first / "episodes").glob("*.npz")).read_bytes()
    checkpoints = [
        (partial(checkpoint_case, (run / CHECKPOINT).read_bytes(), name, draw), run) for name, run in runs.items()
    ]
    makers: list[tuple[Callable[[], Case], Path]] = [
        *checkpoints,
        checkpoints[0],
        *[(partial(configuration_case, (first / CONFIGURATION).read_bytes(), draw), first)] * 2,
        (partial(episode_case, episode, draw), first),
    ]
    for number in range(count):
        make, run = makers[number % len(makers)]
        yield make(), run


def main(count: int, seed: int = 0) -> list[str]:
    """Try so many changed files; the faults."""
    torch.set_num_threads(1)
    faults, counts = [], Counter()
    with tempfile.TemporaryDirectory() as name:
        runs = make_runs(Path(name))
        for number, (case, run) in enumerate(cases(runs, count, seed)):
            folder = Path(name) / "tried"
            folder.mkdir(exist_ok=True)
            what, words = outcome(case, folder, run)
            counts[case.kind, what] += 1
            if what == "fault":
                faults.append(f"{number} {case.kind}, {case.change}: {words}")
                print(f"FAULT {faults[-1]}\n", flush=True)
    for (kind, what), found in sorted(counts.items()):
        print(f"{kind}: {what} {found}")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", type=Path, help="another build of kernels.c")
    options = parser.parse_args()
    if options.library is not None:
        library = compiled.load(options.library)
        assert library is not None, f"{options.library} can't be loaded"
        compiled.library = lambda: library
    found = main(options.count, options.seed)
    print(f"{len(found)} faults in {options.count} files")
    sys.exit(bool(found))
