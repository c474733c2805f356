"""The Memory tab in a browser: TensorBoard over a really recorded run, in a headless Chromium.

Skipped with a reason where Playwright or a Chromium is missing.  CHROMIUM names another one than is on the path.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import expirespan
import pytest
from expirespan import MemoryPPO, evaluate, train_agent, train_sequence
from serving import answer

pytest.importorskip("playwright", reason="the browser test needs Playwright: pip install -e '.[browser]'")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("the browser test needs a Chromium, such as Debian's package chromium", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Playwright leaves its own pipes to the collector

RUN = (
    "--env expirespan/CorridorShort-v0 --env-args min_length=20 --num-envs 4 --n-steps 32 --batch-size 64 --width 16 "
    "--ff-width 16 --ramp 4 --max-span 40 --timeline-every 256"
).split()
LISTED = '"expirespan_memory": {"disable_reload": true, "enabled": true'
PAINTED = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with episodes recorded while training, one of them with evaluation episodes too.

    The first has trained for longest, and its evaluation episodes are the latest.
    """
    folder = tmp_path_factory.mktemp("logs")
    for seed, name in enumerate(("first", "second")):
        steps = ["--total-steps", str(640 - 128 * seed)]
        train_agent.main([*RUN, *steps, "--seed", str(seed), "--out", str(folder / name)])
    evaluate.main([str(folder / "first"), "--episodes", "4", "--record", "2", "--attention"])
    return folder


@contextmanager
def board(logs: Path) -> Iterator[str]:
    """The address of a TensorBoard that serves a log directory, once it answers."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", logs, "--host", "127.0.0.1", "--port", port]
    served = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        until(lambda: answer(f"{address}data/plugins_listing"), limit=120)  # it imports much
        yield address
    finally:
        served.terminate()
        served.wait()


@pytest.fixture(scope="module")
def address(logs: Path) -> Iterator[str]:
    """Of a TensorBoard that serves the runs."""
    with board(logs) as at:
        until(lambda: LISTED in answer(f"{at}data/plugins_listing"), limit=30)
        yield at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page whose console must stay free of errors and that asks no other server for anything."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened, complaints = context.new_page(), []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    local = ("http://127.0.0.1:", "data:", "blob:")
    opened.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(local) else None)
    yield opened
    context.close()
    assert complaints == []


def open_tab(page: Any, address: str) -> Any:
    page.goto(address)
    frame = page.frame_locator("iframe[src*=expirespan_memory]")
    frame.locator("canvas.timeline[data-missing='0']").first.wait_for(timeout=30_000)
    return frame


def until(question: Any, limit: float = 15) -> None:
    """Wait until it is answered with something true."""
    end = time.monotonic() + limit
    while not question():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def data(canvas: Any, name: str) -> float:
    return float(canvas.get_attribute(f"data-{name}"))


def link_of(page: Any) -> str:
    """The address as the page knows it: Playwright's own copy stands still while nothing is asked of it."""
    return page.evaluate("location.href")


def choose(frame: Any, name: str, value: str, pane: int = 0) -> None:
    frame.locator(f"select[name='{name}']").nth(pane).select_option(value=value)


def shown(frame: Any, name: str, pane: int = 0) -> str:
    """The words of what is chosen in a list."""
    return frame.locator(f"select[name='{name}']").nth(pane).evaluate("list => list.selectedOptions[0].text")


def test_it_opens_on_the_latest_recording_at_a_step_that_remembers_and_takes_keys_without_a_click(
    page: Any, address: str
) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    canvas = frame.locator("canvas.timeline")
    # The run with most training steps; of its last recordings the one made last, by expirespan-evaluate.
    until(lambda: shown(frame, "episode") == "seed 1000001")
    assert (shown(frame, "run"), shown(frame, "training step")) == ("first", "640")
    opened = int(data(canvas, "cursor"))
    details = frame.locator(".details")
    until(lambda: f"step {opened:,}" in details.inner_text())
    assert opened > 0 and "step 0\n" in details.inner_text()  # the sign at step 0 is what a corridor needs later
    assert "p.expirespan_memory" not in link_of(page)  # nothing chosen yet: a reload shall find the latest again

    page.keyboard.press("p")
    until(lambda: data(canvas, "cursor") < opened)
    page.keyboard.press("Home")
    page.keyboard.press("n")
    until(lambda: data(canvas, "cursor") == 1)  # an untrained agent stays at the sign for some steps
    page.get_by_role("tab", name="Scalars").click()
    page.get_by_role("tab", name="Memory").click()
    page.keyboard.press("End")
    until(lambda: data(canvas, "cursor") == data(canvas, "to") - 1)
    frame.locator("select[name='layer']").focus()  # a list keeps the keys until the pointer is on the timeline
    page.keyboard.press("Home")
    time.sleep(0.3)
    assert data(canvas, "cursor") == data(canvas, "to") - 1
    canvas.hover(position={"x": 600, "y": 100})
    page.keyboard.press("Home")
    until(lambda: data(canvas, "cursor") == 0)


def test_recordings_of_training_and_of_evaluation_stand_in_one_list_by_step_and_seed(page: Any, address: str) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    runs = frame.locator("select[name='run'] option")
    assert runs.all_inner_texts() == ["first", "second"]
    assert frame.locator("select[name='training step'] option").all_inner_texts() == ["256", "512", "640"]
    seeds = frame.locator("select[name='episode'] option")
    assert seeds.all_inner_texts() == ["seed 1000000, in training", "seed 1000000, in evaluation", "seed 1000001"]
    choose(frame, "training step", "512")
    until(lambda: seeds.all_inner_texts() == ["seed 1000000"])
    choose(frame, "run", "second")
    until(lambda: shown(frame, "training step") == "512")


def test_a_new_recording_is_shown_until_something_is_chosen_and_equal_seeds_are_told_apart(
    page: Any, address: str
) -> None:
    shows = ["training", "evaluation", "one more"]

    def growing(route: Any) -> None:
        answer = route.fetch()
        listing = answer.json()
        training = [known for known in listing["episodes"] if known["source"] == "first" and known["step"] < 640]
        late = [known | {"step": 512} for known in listing["episodes"] if known["source"] == "first/episodes"]
        listing["episodes"] = training[:1] if shows[0] == "training" else [*training, late[0]]
        if shows[0] == "one more":
            listing["episodes"].append(late[1] | {"step": 1000})
        route.fulfill(response=answer, json=listing)

    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # the browser asks, TensorBoard has none
    page.route("**/expirespan_memory/episodes*", growing)
    page.goto("about:blank")
    page.clock.install()
    frame = open_tab(page, f"{address}#expirespan_memory")
    until(lambda: shown(frame, "training step") == "256")
    shows.pop(0)
    page.clock.fast_forward(16_000)
    until(lambda: shown(frame, "training step") == "512")
    labels = frame.locator("select[name='episode'] option").all_inner_texts()
    assert labels == ["seed 1000000, in training", "seed 1000000, in evaluation"]
    page.keyboard.press("Home")
    shows.pop(0)
    page.clock.fast_forward(16_000)
    until(lambda: frame.locator("select[name='training step'] option").count() == 3)
    assert shown(frame, "training step") == "512"


def test_actions_marks_layers_and_keys_are_told_in_words(page: Any, address: str) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    details, legend = frame.locator(".details"), frame.locator(".legend")
    until(lambda: any(f"action {name}" in details.inner_text() for name in ("RIGHT", "DOWN", "LEFT", "UP")))
    said = legend.inner_text()
    for words in (
        "a memory, from the step that wrote it to the step that deleted it",
        "memory of a relevant step: a later step needs its observation",
        "attended to at the cursor's step",
        "live memories of layer 1",
        "live memories of layer 2",
    ):
        assert words in said
    styles = legend.locator(".mark.curve").evaluate_all("marks => marks.map((mark) => mark.style.borderTopStyle)")
    assert styles == ["solid", "dashed"]  # where both layers hold the same, the gaps show the one beneath
    keys = frame.locator(".help kbd").all_inner_texts()
    assert keys == [
        "←",
        "→",
        "n",
        "p",
        "home",
        "end",
        "+",
        "\N{MINUS SIGN}",
        "a",
        "d",
        "page up",
        "page down",
        "0",
        "esc",
    ]


def test_an_empty_log_directory_is_met_with_what_to_do(browser: Any, tmp_path: Path) -> None:
    with board(tmp_path) as empty:
        opened = browser.new_page()
        opened.goto(f"{empty}#expirespan_memory")
        messages = opened.frame_locator("iframe[src*=expirespan_memory]").locator(".messages")
        until(lambda: "No recorded episodes" in messages.inner_text())
        for words in ("expirespan-evaluate RUN --record 3", "tensorboard_log=", "callback=RecordEpisodes(eval_env"):
            assert words in messages.inner_text()
        opened.close()


def test_timeline_cursor_zoom_layer_and_keys(page: Any, address: str, tmp_path: Path) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    choose(frame, "run", "first")
    canvas = frame.locator("canvas.timeline")
    until(lambda: data(canvas, "to") > 8 and data(canvas, "missing") == 0)
    steps = data(canvas, "to")
    assert canvas.evaluate(PAINTED) > 10  # a blank canvas has one colour

    canvas.hover(position={"x": 600, "y": 100})
    until(lambda: data(canvas, "cursor") > 0)
    at = int(data(canvas, "cursor"))
    details = frame.locator(".details")
    until(lambda: f"step {at:,}" in details.inner_text())
    for word in ("action", "value", "reward", "layer 1:", "layer 2:"):
        assert word in details.inner_text()
    until(lambda: details.locator("canvas").count() > 0)  # the frames behind the memories
    assert details.locator(".weight").count() > 0

    page.mouse.wheel(0, -600)
    until(lambda: data(canvas, "to") - data(canvas, "from") < steps)
    canvas.press("d")
    canvas.press("ArrowRight")
    until(lambda: data(canvas, "cursor") == at + 1)
    canvas.press("0")
    until(lambda: data(canvas, "to") - data(canvas, "from") == steps)

    choose(frame, "layer", "2")
    until(lambda: "layer 1:" not in details.inner_text())
    choose(frame, "colour", "attention")
    until(lambda: "attention received" in frame.locator(".legend").inner_text() and data(canvas, "missing") == 0)
    canvas.press("+")
    until(lambda: "attention" in link_of(page))
    page.screenshot(path=tmp_path / "tab.png")
    assert (tmp_path / "tab.png").stat().st_size > 10_000


def test_the_page_works_and_restores_its_view_alone(page: Any, address: str) -> None:
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # the browser asks, TensorBoard has none
    page.goto(f"{address}data/plugin_entry.html?name=expirespan_memory")
    canvas = page.locator("canvas.timeline")
    page.locator("canvas.timeline[data-missing='0']").wait_for()
    canvas.press("Home")
    canvas.press("ArrowRight")
    until(lambda: "%22at%22%3A1" in link_of(page))
    page.reload()
    page.locator("canvas.timeline[data-cursor='1']").wait_for()


def test_a_link_restores_the_view(page: Any, address: str) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    choose(frame, "run", "second")
    canvas = frame.locator("canvas.timeline")
    until(lambda: "second" in link_of(page))
    canvas.press("+")
    for key in ("Home", "ArrowRight", "ArrowRight"):
        canvas.press(key)
    choose(frame, "layer", "2")
    until(lambda: "%22at%22%3A2" in link_of(page) and "%22layer%22%3A%222%22" in link_of(page))
    link, shown = link_of(page), (data(canvas, "to"), data(canvas, "cursor"))
    page.goto("about:blank")
    frame = open_tab(page, link)
    canvas = frame.locator("canvas.timeline")
    until(lambda: data(canvas, "cursor") == 2)
    assert (round(shown[0]), shown[1]) == (data(canvas, "to"), data(canvas, "cursor"))
    assert frame.locator("select[name='run']").input_value() == "second"
    assert frame.locator("select[name='layer']").input_value() == "2"


def test_a_link_to_an_episode_that_is_loaded_later_waits_for_it_and_a_failed_one_is_asked_for_again(
    page: Any, address: str
) -> None:
    frame = open_tab(page, f"{address}#expirespan_memory")
    choose(frame, "run", "second")
    canvas = frame.locator("canvas.timeline")
    until(lambda: "second" in link_of(page))
    canvas.press("Home")
    canvas.press("ArrowRight")
    until(lambda: "%22at%22%3A1%2C" in link_of(page))
    link, late, broken = link_of(page), [True], [True]

    def without_second(route: Any) -> None:
        answer = route.fetch()
        listing = answer.json()
        if late.pop() if late else False:
            listing["episodes"] = [known for known in listing["episodes"] if known["run"] != "second"]
        route.fulfill(response=answer, json=listing)

    def failing_once(route: Any) -> None:
        if "second" in route.request.url and broken:
            broken.pop()
            route.fulfill(status=200, body="no JSON")
        else:
            route.continue_()

    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # the browser asks, TensorBoard has none
    page.route("**/expirespan_memory/episodes*", without_second)
    page.route("**/expirespan_memory/episode?*", failing_once)
    page.goto("about:blank")
    page.clock.install()
    frame = open_tab(page, link)
    canvas = frame.locator("canvas.timeline")
    assert frame.locator("select[name='run']").input_value() != "second" and data(canvas, "cursor") != 1
    time.sleep(0.5)
    assert link_of(page) == link
    page.clock.fast_forward(16_000)
    until(lambda: "can't be shown" in frame.locator(".summary").inner_text())
    page.clock.fast_forward(16_000)
    until(lambda: data(canvas, "cursor") == 1)
    assert frame.locator("select[name='run']").input_value() == "second"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_two_training_steps_side_by_side_in_both_themes(page: Any, address: str, tmp_path: Path, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    frame = open_tab(page, f"{address}#expirespan_memory")
    assert frame.locator("html").get_attribute("data-theme") == theme
    choose(frame, "run", "first")
    frame.get_by_label("compare").check()
    canvases = frame.locator("canvas.timeline")
    until(lambda: canvases.count() == 2)
    left, right = canvases.first, canvases.last
    until(lambda: right.get_attribute("data-missing") == "0")
    assert right.evaluate(PAINTED) > 10
    chosen = [frame.locator("select[name='training step']").nth(pane).input_value() for pane in (0, 1)]
    assert chosen[0] != chosen[1]
    left.press("+")
    left.press("Home")
    left.press("ArrowRight")
    until(lambda: data(right, "cursor") == data(left, "cursor") == 1 and data(right, "from") == data(left, "from"))
    assert data(right, "to") <= data(left, "to")  # less where its episode is shorter
    choose(frame, "run", "second", pane=1)
    until(lambda: "second" in link_of(page))
    page.screenshot(path=tmp_path / f"{theme}.png")
    assert (tmp_path / f"{theme}.png").stat().st_size > 10_000


def test_tokens_and_their_pictures_are_shown_as_text(browser: Any, tmp_path: Path) -> None:
    task = "--task collision --task-args grid=4 colors=2 --timeline-steps 100 --timeline-every 2"
    sizes = "--width 16 --ff-width 16 --max-span 40 --ramp 4 --memory-budget 8 --segment 16 --batch-size 2"
    options = f"{task} {sizes} --updates 2 --evaluate-every 0"
    train_sequence.main([*options.split(), "--out", str(tmp_path / "run")])
    with board(tmp_path) as at:
        until(lambda: LISTED in answer(f"{at}data/plugins_listing"), limit=30)
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        frame = open_tab(opened, f"{at}#expirespan_memory")
        until(lambda: shown(frame, "episode") == "valid-0")
        details = frame.locator(".details")
        frame.locator("canvas.timeline").press("End")
        until(lambda: "step 99" in details.inner_text())
        said = details.inner_text()
        for word in ("token", "predicts", "surprise in bits"):
            assert word in said
        assert "action" not in said and "reward" not in said
        assert re.fullmatch(r"r\d c\d (red|cyan) .*", details.locator(".text").inner_text().split("\n")[-1])
        assert re.fullmatch(r"r\d|c\d|red\??|cyan\??", details.locator(".memory .token").first.inner_text())
        until(lambda: details.locator("canvas").count() > 0)
        assert "right answer" in frame.locator(".summary").inner_text()
        opened.screenshot(path=tmp_path / "tokens.png")
        opened.close()


def test_it_opens_on_the_run_that_was_recorded_into_last_however_short(page: Any, address: str) -> None:
    page.goto(address)
    told = [("long", 900, 1), ("long", 100, 2), ("short", 10, 3), ("short", 20, 4)]
    listings = [{"run": run, "step": step, "wall_time": when} for run, step, when in told]
    shown = "listings => import('/data/plugin/expirespan_memory/pane.js').then(m => m.firstShown(listings))"
    assert page.evaluate(shown, listings) == {"run": "short", "step": 20, "wall_time": 4}
    assert page.evaluate(shown, listings[:2]) == {"run": "long", "step": 900, "wall_time": 1}


def test_the_tab_says_how_to_record_where_an_agent_was_trained_without(tmp_path: Path) -> None:
    MemoryPPO("MlpPolicy", "CartPole-v1", policy_kwargs={"memory": {"width": 8}}, tensorboard_log=str(tmp_path)).learn(
        128
    )
    with board(tmp_path) as at:
        until(lambda: LISTED in answer(f"{at}data/plugins_listing"), limit=60)


def test_the_advice_for_python_can_be_imported() -> None:
    page = (Path(expirespan.__file__).parent / "tab" / "static" / "index.js").read_text()
    (advice,) = re.findall(r"Python: (from \S+ import [^;]+);", page)
    exec(advice)
