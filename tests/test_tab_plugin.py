"""The tab's answers, over event files that were really written and read by TensorBoard."""

import json
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expirespan.analysis.record import EpisodeTrace
from expirespan.tab.episodes import action_words, run_of, telling_step
from expirespan.tab.plugin import MemoryPlugin
from expirespan.tab.raster import TILE
from expirespan.tab.summary import PLUGIN_NAME, Listing, episode_summary, write_episode
from recordings import made_up
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client, TestResponse

TRACE = made_up(1301, 2)
TAG = "memory/episode/7/2000"


def write(folder: Path, *summaries: Any) -> None:
    with SummaryWriter(str(folder)) as writer:
        for summary in summaries:
            writer._get_file_writer().add_summary(summary, 2000)


class Tab:
    """The plugin over a log directory."""

    def __init__(self, logs: Path) -> None:
        events = EventMultiplexer()
        events.AddRunsFromDirectory(str(logs))
        events.Reload()
        context = TBContext(logdir=str(logs), data_provider=MultiplexerDataProvider(events, str(logs)))
        self.plugin = MemoryPlugin(context)
        self.routes = self.plugin.get_plugin_apps()

    def get(self, route: str, run: str = "a", tag: str = TAG, **arguments: object) -> TestResponse:
        query = {"run": run, "tag": tag} | {name: str(value) for name, value in arguments.items()}
        return Client(self.routes[route]).get("/", query_string=query)

    def json(self, route: str, **arguments: Any) -> Any:
        answer = self.get(route, **arguments)
        assert answer.status_code == 200 and answer.content_type == "application/json", answer.text
        return json.loads(answer.data)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Tab:
    logs = tmp_path_factory.mktemp("logs")
    with SummaryWriter(str(logs / "a")) as writer:
        writer.add_scalar("loss", 1.0, 1)
        write_episode(writer, TRACE, "7", 2000)
        write_episode(writer, made_up(5, 1, full=False), "8", 2000)
    return Tab(logs)


def test_episodes_are_listed_from_the_metadata(tab: Tab) -> None:
    found = tab.json("/episodes")
    assert found["messages"] == [] and found["tile"] == TILE
    assert [(each["run"], each["tag"]) for each in found["episodes"]] == [("a", TAG), ("a", "memory/episode/8/2000")]
    assert found["episodes"][0]["wall_time"] > 1e9
    assert found["episodes"][0] | {"wall_time": 0} == {
        "run": "a",
        "source": "a",
        "tag": TAG,
        "wall_time": 0,
        "name": "7",
        "step": 2000,
        "steps": 1301,
        "layers": 2,
        "total_reward": 1.0,
        "episode_end": "terminated",
    }


def test_an_episode_describes_itself(tab: Tab) -> None:
    about = tab.json("/episode")
    assert about["steps"] == 1301 and about["has_frames"] and len(about["layers"]) == 2
    assert about["relevant"] == np.flatnonzero(TRACE.relevant).tolist()
    assert about["layers"][0]["most_live"] == TRACE.layers[0].live.max() and about["layers"][0]["attention"]
    plain = tab.json("/episode", tag="memory/episode/8/2000")
    assert not plain["has_frames"] and plain["layers"][0]["attention"] is None


def test_episodes_of_training_and_of_evaluation_are_listed_as_of_one_run(tmp_path: Path) -> None:
    write(tmp_path / "a", episode_summary(made_up(5, 1), "7", 2000))
    write(tmp_path / "a" / "episodes", episode_summary(made_up(7, 1), "7", 2000))
    tab = Tab(tmp_path)
    found = tab.json("/episodes")["episodes"]
    assert [(each["run"], each["source"]) for each in found] == [("a", "a"), ("a", "a/episodes")]
    assert tab.json("/episode")["steps"] == 5 and tab.json("/episode", run="a/episodes")["steps"] == 7
    assert [run_of(source) for source in ("episodes", "a/b/episodes", "b/my_episodes", ".")] == [
        ".",
        "a/b",
        "b/my_episodes",
        ".",
    ]


def remembering(deleted: list[list[int]], relevant: list[int]) -> EpisodeTrace:
    """An episode of 11 steps whose layers delete their memories at these steps."""
    steps = np.arange(11)
    layers = tuple(replace(made_up(11, 1).layers[0], deleted=np.array(gone)) for gone in deleted)
    return replace(made_up(11, 1), layers=layers, relevant=np.isin(steps, relevant))


def test_an_episode_opens_where_what_matters_is_still_remembered() -> None:
    passing = list(range(1, 12))
    kept, longer = [*passing], [*passing]
    kept[2], kept[4], longer[1] = 7, 6, 10
    assert telling_step(remembering([passing, kept], [2, 4])) == 6  # of two relevant memories the longest-lived
    assert telling_step(remembering([longer, kept], [2])) == 6  # not the longest-lived of all
    assert telling_step(remembering([longer, kept], [3])) == 9  # relevant step 3 is forgotten at once
    assert telling_step(remembering([longer, kept], [])) == 9


def test_actions_are_told_by_name_by_number_or_as_numbers() -> None:
    names = ("left", "right")
    assert action_words(np.int64(1), names) == "right"
    assert [action_words(np.array(number), names) for number in (2, -1)] == ["action 2", "action -1"]
    assert action_words(3, ()) == "action 3"
    assert action_words(np.array([0.12345, -1.5], dtype=np.float32), names) == "[0.123, -1.5]"
    assert action_words(np.array([1, 0]), names) == "[1, 0]" and action_words(np.float32(0.25), names) == "0.25"


def test_each_of_many_relevant_steps_is_listed(tmp_path: Path) -> None:
    trace = made_up(6007, 1, full=False)
    write(tmp_path / "a", episode_summary(replace(trace, relevant=np.ones(6007, dtype=bool)), "7", 2000))
    assert Tab(tmp_path).json("/episode")["relevant"] == list(range(6007))


def test_numbers_that_are_not_finite_are_told_as_unknown(tmp_path: Path) -> None:
    trace = replace(made_up(5, 1), rewards=np.array([0, np.nan, 1, np.inf, 0]))
    write(tmp_path / "a", episode_summary(trace, "7", 2000))
    tab = Tab(tmp_path)
    about = tab.json("/episode")
    assert about["total_reward"] is None and about["rewards"] == [0, 1]
    assert [tab.json("/step", step=step)["reward"] for step in range(5)] == [0, None, 1, None, 0]


def test_a_step_of_tokens_tells_the_text_around_it_and_that_of_each_memory(tmp_path: Path) -> None:
    labels = np.array(["<b>", *"0123456789", "\n"])
    trace = replace(made_up(12, 1), labels=labels, value_name="surprise in bits")
    write(tmp_path / "a", episode_summary(trace, "7", 2000))
    tab = Tab(tmp_path)
    about, step = tab.json("/episode"), tab.json("/step", step=9)
    assert about["has_labels"] and about["value_name"] == "surprise in bits"
    assert step["text"] == ["<b>01234567", "8", "9\n"]
    texts = {memory["written"]: memory["text"] for memory in step["layers"][0]["memories"]}
    assert texts[9] == ["234567", "8"]


def test_a_step_tells_what_is_live_and_attended_to(tab: Tab) -> None:
    step = tab.json("/step", step=1)
    assert step["event"] == "<img src=x onerror=alert(1)>" and step["action"] == f"action {TRACE.actions[1]}"
    assert step["text"] is None and not tab.json("/episode")["has_labels"]
    assert step["value"] == pytest.approx(float(TRACE.values[1]))
    for number, layer in enumerate(step["layers"]):
        deleted = TRACE.layers[number].deleted
        live = [memory for memory in (0, 1) if deleted[memory] > 1]
        assert [memory["written"] for memory in layer["memories"]] == live and layer["live"] == len(live)
        assert [memory["deleted"] for memory in layer["memories"]] == deleted[live].tolist()
        assert all(memory["weight"] == 0.5 for memory in layer["memories"])
        assert {memory["fate"] for memory in layer["memories"]} <= {"expired", "evicted", "episode end"}
    assert tab.json("/step", tag="memory/episode/8/2000", step=4)["layers"][0]["memories"][-1]["weight"] == 0


def test_cells_curves_and_frames_come_as_bytes(tab: Tab) -> None:
    rows = tab.json("/episode")["layers"][1]["rows"]
    cells = tab.get("/tile", layer=1, level=1, index=1, color="attention")
    assert cells.content_type == "application/octet-stream" and len(cells.data) == 3 * rows * TILE
    curves = np.frombuffer(tab.get("/series", level=0, index=0).data, dtype="<f4").reshape(6, TILE)
    np.testing.assert_array_equal(curves[0], TRACE.layers[0].live[:TILE])
    frames = tab.get("/frames", steps="1300,0").data
    assert np.frombuffer(frames[:8], dtype="<i4").tolist() == [5, 3]
    assert TRACE.frames is not None
    np.testing.assert_array_equal(np.frombuffer(frames[8:], np.uint8).reshape(2, 5, 3, 3), TRACE.frames[[1300, 0]])


@pytest.mark.parametrize(
    ("route", "arguments", "status", "message"),
    [
        ("/episode", {"run": "b"}, 404, f"no episode {TAG} in run b"),
        ("/episode", {"tag": "loss"}, 404, "no episode loss in run a"),
        ("/episode", {"run": "../../etc"}, 404, "no episode"),
        ("/step", {}, 400, "`step` to be an int from 0 to 1300, actual: ''"),
        ("/step", {"step": "1301"}, 400, "`step` to be an int from 0 to 1300, actual: '1301'"),
        ("/step", {"step": "²"}, 400, "`step` to be an int"),
        ("/tile", {"layer": 2, "level": 0, "index": 0}, 400, "`layer` to be an int from 0 to 1, actual: '2'"),
        ("/tile", {"layer": 0, "level": 0, "index": 3}, 400, "`index` to be an int from 0 to 2, actual: '3'"),
        ("/tile", {"layer": 0, "level": 99, "index": 0}, 400, "`level` to be an int from 0 to 20, actual: '99'"),
        ("/tile", {"layer": 0, "level": 0, "index": 0, "color": "red"}, 400, "`color` to be one of span, attention"),
        ("/frames", {"steps": ",".join(["0"] * 65)}, 400, "`steps` to be at most 64 steps, actual: 65"),
        ("/frames", {"steps": "0,-1"}, 400, "`steps` to be an int from 0 to 1300, actual: '-1'"),
        ("/frames", {"steps": "0", "tag": "memory/episode/8/2000"}, 400, "an episode with frames, actual: one without"),
    ],
)
def test_wrong_requests_are_answered_with_a_message(
    tab: Tab, route: str, arguments: dict[str, Any], status: int, message: str
) -> None:
    answer = tab.get(route, **arguments)
    assert answer.status_code == status and answer.content_type == "application/json"
    assert message in json.loads(answer.data)["error"]


def test_only_the_packages_own_files_are_served_and_nothing_as_a_page(tab: Tab) -> None:
    script = tab.get("/index.js")
    assert script.status_code == 200 and "javascript" in (script.content_type or "")
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    names = {route for route in tab.routes if "." in route}
    assert {"/index.js", "/style.css"} <= names and all(name.endswith((".js", ".css")) for name in names)
    for name in names:
        source = tab.get(name).text
        assert not any(word in source for word in ("innerHTML", "eval(", "http://", "https://"))


def test_damage_in_one_place_leaves_the_rest(tmp_path: Path) -> None:
    good = episode_summary(made_up(5, 1), "7", 2000)
    damaged = episode_summary(made_up(5, 1), "8", 2000)
    damaged.value[0].tensor.string_val[0] = damaged.value[0].tensor.string_val[0][:700]
    number = episode_summary(made_up(5, 1), "9", 2000)
    number.value[0].tensor.dtype = 1
    number.value[0].tensor.ClearField("string_val")
    number.value[0].tensor.float_val.append(1.0)
    foreign, typed = (episode_summary(made_up(5, 1), name, 2000) for name in ("10", "11"))
    foreign.value[0].metadata.plugin_data.content = b"\xff not JSON"
    typed.value[0].metadata.plugin_data.content = b'{"name": 3}'
    write(tmp_path / "a", good, damaged, number, foreign, typed)
    write(tmp_path / "cut", good)
    (cut,) = (tmp_path / "cut").iterdir()
    cut.write_bytes(cut.read_bytes()[:-40])
    write(tmp_path / "noise", good)
    (noise,) = (tmp_path / "noise").iterdir()
    noise.write_bytes(np.random.default_rng(1).bytes(5000))
    tab = Tab(tmp_path)
    found = tab.json("/episodes")
    assert [each["name"] for each in found["episodes"]] == ["7", "8", "9"]
    assert len(found["messages"]) == 2 and all("a, memory/episode/1" in message for message in found["messages"])
    assert tab.get("/episode").status_code == 200
    for name, message in (("8", "to be a whole"), ("9", "to be one string of bytes")):
        answer = tab.get("/episode", tag=f"memory/episode/{name}/2000")
        assert answer.status_code == 400 and message in json.loads(answer.data)["error"]


def test_nested_metadata_and_an_episode_without_layers_leave_the_rest(tmp_path: Path) -> None:
    nested = episode_summary(made_up(5, 1), "8", 2000)
    nested.value[0].metadata.plugin_data.content = b"[" * 200_000
    bare = episode_summary(replace(made_up(5, 1), layers=()), "9", 2000)
    write(tmp_path / "a", episode_summary(made_up(5, 1), "7", 2000), nested, bare)
    tab = Tab(tmp_path)
    found = tab.json("/episodes")
    assert [each["name"] for each in found["episodes"]] == ["7", "9"] and len(found["messages"]) == 1
    assert tab.get("/episode").status_code == 200
    answer = tab.get("/episode", tag="memory/episode/9/2000")
    assert (
        answer.status_code == 400 and "the memories of at least 1 layer, actual: 0" in json.loads(answer.data)["error"]
    )


def test_an_episode_that_is_written_again_replaces_the_one_before(tmp_path: Path) -> None:
    first, second = made_up(5, 1), replace(made_up(5, 1), rewards=np.full(5, 2.0))
    write(tmp_path / "a", episode_summary(first, "7", 2000), episode_summary(second, "7", 2000))
    assert Tab(tmp_path).json("/episode")["total_reward"] == 10


def test_metadata_of_another_kind_are_refused() -> None:
    listing = Listing(name="7", step=1, steps=2, layers=3, total_reward=1.0, episode_end="")
    assert Listing.from_json(listing.to_json()) == listing
    with pytest.raises(ValueError, match="`step` of a recorded episode to be int, actual: '1'"):
        Listing.from_json(listing.to_json().replace(b'"step": 1', b'"step": "1"'))
    with pytest.raises(ValueError, match="the metadata of a recorded episode"):
        Listing.from_json(b"[]")


def test_tensorboard_finds_the_plugin() -> None:
    found = [entry.load() for entry in entry_points(group="tensorboard_plugins") if entry.name == PLUGIN_NAME]
    assert found and found[0] is MemoryPlugin
