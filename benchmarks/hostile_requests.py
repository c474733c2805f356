"""Requests to the Memory tab that nobody of this project made: none may be answered with 500, or end the server.

A log directory is written with good episodes, and with events as somebody could make them: metadata that are no JSON,
deeply nested or of other types, values that are no episodes, damaged ones and ones of other shapes, event files cut and
flipped.  Then all routes are asked for all of it with right and wrong arguments.  The list must name every good episode
each time: a bad record costs that record.

    python benchmarks/hostile_requests.py --count 3000
"""

import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from damage import changed_bytes, episode_case
from expirespan.analysis import storage
from expirespan.analysis.record import EpisodeTrace, LayerRecord
from expirespan.tab.plugin import MemoryPlugin
from expirespan.tab.summary import episode_summary
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter
from trial import finish, parser
from werkzeug.test import Client

GOOD, BAD = 3, 60
METADATA = (
    *(b"", b"x", b"\xff\xfe", b"null", b"[]", b"{}", b"1", b'"x"', b"[" * 100_000, b'{"a":' * 50_000),
    *(b'{"name": 1}', b"NaN", b"1e999"),
)
ROUTES = ("/episodes", "/episode", "/step", "/tile", "/series", "/frames")
FIELDS = ("name", "step", "steps", "layers", "total_reward", "episode_end")
WORDS = (
    "",
    "x",
    "-1",
    "0",
    "1",
    "2",
    "40",
    "41",
    "1000000",
    "9" * 18,
    "9" * 400,
    "1.5",
    "nan",
    "None",
    "²",
    "\x00",
    "%00",
)


def episode(steps: int, draw: random.Random, frames: bool = True) -> EpisodeTrace:
    """A made-up episode of two layers."""
    generator = np.random.default_rng(draw.randrange(2**32))
    written = np.arange(steps)
    layers = tuple(
        LayerRecord(
            span=generator.uniform(0, steps, steps).astype(np.float32),
            deleted=np.minimum(written + generator.integers(1, 9, steps), steps).astype(np.int32),
            evicted=np.zeros(steps, dtype=bool),
            live=np.ones(steps, dtype=np.int32),
            attention=None,
        )
        for _ in range(2)
    )
    return EpisodeTrace(
        layers=layers,
        relevant=generator.random(steps) < 0.1,
        rewards=generator.normal(size=steps).astype(np.float32),
        actions=generator.integers(0, 4, steps),
        values=generator.normal(size=steps).astype(np.float32),
        events=None,
        frames=generator.integers(0, 255, (steps, 5, 3, 3), dtype=np.uint8) if frames else None,
        episode_end="terminated",
    )


def bad_summary(number: int, draw: random.Random) -> Any:
    """An event of an episode with something wrong in its metadata or its value."""
    trace = episode(draw.choice((1, 7, 300)), draw)
    summary = episode_summary(trace, f"bad{number}", 2000)
    value = summary.value[0]
    how = draw.choice(("metadata", "field", "value", "array", "bytes", "empty", "kind"))
    if how == "metadata":
        value.metadata.plugin_data.content = draw.choice(METADATA)
    elif how == "field":
        field = draw.choice(FIELDS).encode()
        wrong = draw.choice((b"null", b"-1", b"1e999", b"NaN", b"[[]]", b'"' + b"y" * 100_000 + b'"', b"1" * 5000))
        parts = [b'"%s": %s' % (name.encode(), b'"z"' if name in ("name", "episode_end") else b"1") for name in FIELDS]
        parts[FIELDS.index(field.decode())] = b'"%s": %s' % (field, wrong)
        value.metadata.plugin_data.content = b"{" + b", ".join(parts) + b"}"
    elif how == "array":
        value.tensor.CopyFrom(of_bytes(episode_case(storage.to_bytes(trace), draw).data))
    elif how == "bytes":
        value.tensor.CopyFrom(of_bytes(changed_bytes(storage.to_bytes(trace), draw)[0]))
    elif how == "empty":
        value.tensor.CopyFrom(of_bytes(b""))
    elif how == "kind":
        value.tensor.CopyFrom(make_tensor_proto(draw.choice((np.zeros(3), np.array([]), np.array(["x", "y"], object)))))
    else:
        value.tensor.Clear()
    return summary


def of_bytes(data: bytes) -> Any:
    """A tensor of one string."""
    return make_tensor_proto(np.array(data, dtype=object))


def write_logs(folder: Path, draw: random.Random) -> None:
    """Good episodes in run "good", bad ones beside them, and runs whose event files are damaged."""
    with SummaryWriter(str(folder / "good")) as writer:
        for number in range(GOOD):
            writer._get_file_writer().add_summary(
                episode_summary(episode(50 + 300 * number, draw), f"good{number}", 2000)
            )
        for number in range(BAD):
            writer._get_file_writer().add_summary(bad_summary(number, draw))
    whole = next((folder / "good").iterdir())
    for number in range(10):
        (folder / f"damaged{number}").mkdir()
        (folder / f"damaged{number}" / whole.name).write_bytes(changed_bytes(whole.read_bytes(), draw)[0])


def word(right: list[str], draw: random.Random) -> str:
    """A right argument most of the time."""
    return draw.choice(right) if draw.random() < 0.85 else draw.choice(WORDS)


def main(count: int, seed: int = 0) -> list[str]:
    """Make so many requests; what went wrong."""
    draw, faults, counts = random.Random(seed), [], Counter()
    with tempfile.TemporaryDirectory() as name:
        write_logs(Path(name), draw)
        events = EventMultiplexer()
        events.AddRunsFromDirectory(name)
        events.Reload()
        context = TBContext(logdir=name, data_provider=MultiplexerDataProvider(events, name))
        routes = MemoryPlugin(context).get_plugin_apps()
        tags = [f"memory/episode/good{number}/2000" for number in range(GOOD)]
        everything = tags + [f"memory/episode/bad{number}/2000" for number in range(BAD)]
        for _ in range(count):
            route = draw.choice([*ROUTES * 5, *routes])
            asked = {
                "run": word(["good"] * 30 + [f"damaged{number}" for number in range(10)], draw),
                "tag": word(tags * 20 + everything, draw),
                "step": word(["0", "5", "49"], draw),
                "level": word(["0", "0", "1", "5", "20"], draw),
                "index": word(["0"], draw),
                "layer": word(["0", "1"], draw),
                "color": word(["span", "span", "attention"], draw),
                "steps": ",".join(word(["0", "5", "49"], draw) for _ in range(draw.choice((1, 3, 70)))),
            }
            asked = {key: value for key, value in asked.items() if draw.random() < 0.95}
            try:
                answer = Client(routes[route]).get("/", query_string=asked)
            except Exception as error:  # as a server would answer with 500
                faults.append(f"{route} {asked}: {type(error).__name__}: {error}"[:500])
                continue
            counts[
                route if route in ("/episodes", "/episode", "/step", "/tile", "/series", "/frames") else "files",
                answer.status_code,
            ] += 1
            if answer.status_code >= 500:
                faults.append(f"{route} {asked}: {answer.status_code}"[:500])
            if route == "/episodes":
                listed = {entry["tag"] for entry in json.loads(answer.data)["episodes"] if entry["run"] == "good"}
                faults += [f"{tag} isn't listed" for tag in tags if tag not in listed]
    for (route, status), found in sorted(counts.items()):
        print(f"{route}: {status} {found}")
    return faults


if __name__ == "__main__":
    arguments = parser(__doc__, 3000, "requests")
    options = arguments.parse_args()
    finish(main(options.count, options.seed), options.count, "requests")
