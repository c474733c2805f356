"""The Memory tab: a TensorBoard plugin, found through the entry point `tensorboard_plugins`.

Routes answer with JSON or with the bytes of little-endian arrays; wrong requests and damaged episodes are answered with
a message and leave the others working.  Files come from this package's `static` folder, by name; episodes only through
TensorBoard's data provider.

TensorBoard shows the page in a frame of the same origin.  The page gives its first timeline the keyboard's focus
whenever that frame comes into view, unless a list or a text field has it, and a timeline takes it when the pointer
enters it, so keys need no click.
"""

import mimetypes
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from werkzeug.wrappers import Request, Response

from ..analysis.record import in_color
from .episodes import Episode, EpisodeStore
from .raster import TILE, series_tile
from .summary import PLUGIN_NAME

STATIC = Path(__file__).parent / "static"
MOST_FRAMES = 64
"""Frames in one answer."""
LIVE = "memory/live_layer_1"
"""A curve that every training of a core with memories of single steps has."""
MOST_LEVEL = 20
"""A tile shows 2^LEVEL steps in each of its columns; the longest episodes fit into one of this level."""

Answer = Callable[[Request], Response]


class MemoryPlugin(TBPlugin):
    """Lists recorded episodes and serves what the page draws of one."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: TBContext) -> None:
        provider = context.data_provider
        assert provider is not None  # there is none only outside of a running TensorBoard
        self._provider = provider
        self._store = EpisodeStore(provider)

    def get_plugin_apps(self) -> dict[str, Any]:
        """The routes below data/plugin/expirespan_memory."""
        answers: dict[str, Answer] = {
            "/episodes": self._list,
            "/episode": self._describe,
            "/step": self._step,
            "/tile": self._tile,
            "/series": self._series,
            "/frames": self._frames,
        }
        answers |= {f"/{file.name}": partial(_serve_file, file) for file in sorted(STATIC.iterdir()) if file.is_file()}
        return {route: _application(answer) for route, answer in answers.items()}

    def is_active(self) -> bool:
        """Whether an agent of this project was trained without recording episodes: the tab then says how to.

        Where there are recorded episodes TensorBoard finds that out itself.
        """
        live = RunTagFilter(tags=[LIVE])
        found = self._provider.list_scalars(
            RequestContext(), experiment_id="", plugin_name="scalars", run_tag_filter=live
        )
        return any(found.values())

    def frontend_metadata(self) -> FrontendMetadata:
        """How the tab is called and where its page begins."""
        return FrontendMetadata(es_module_path="/index.js", tab_name="Memory", disable_reload=True)

    def _list(self, request: Request) -> Response:
        context = plugin_util.context(request.environ)
        found = self._store.listings(context, plugin_util.experiment_id(request.environ))
        return http_util.Respond(request, found | {"tile": TILE}, "application/json")

    def _episode(self, request: Request) -> Episode:
        context = plugin_util.context(request.environ)
        run, tag = (request.args.get(name, "") for name in ("run", "tag"))
        return self._store.episode(context, plugin_util.experiment_id(request.environ), run, tag)

    def _describe(self, request: Request) -> Response:
        return http_util.Respond(request, self._episode(request).describe(), "application/json")

    def _step(self, request: Request) -> Response:
        episode = self._episode(request)
        step = _whole(request.args, "step", 0, len(episode.trace.relevant) - 1)
        return http_util.Respond(request, episode.describe_step(step), "application/json")

    def _tile(self, request: Request) -> Response:
        episode = self._episode(request)
        bars = episode.bars(_whole(request.args, "layer", 0, len(episode.trace.layers) - 1))
        color = request.args.get("color", "span")
        if color not in bars.shade:
            raise ValueError(f"Expect `color` to be one of {', '.join(bars.shade)}, actual: {color!r}")
        return _binary(request, bars.tile(*_place(request.args, episode), color))

    def _series(self, request: Request) -> Response:
        episode = self._episode(request)
        return _binary(request, series_tile(episode.trace, *_place(request.args, episode)).astype("<f4"))

    def _frames(self, request: Request) -> Response:
        """Height and width as two 32-bit ints, then the frames asked for in `steps`, one after another."""
        episode = self._episode(request)
        frames = episode.frames
        if frames is None:
            raise ValueError("Expect an episode with frames, actual: one without")
        names = request.args.get("steps", "").split(",")
        if len(names) > MOST_FRAMES:
            raise ValueError(f"Expect `steps` to be at most {MOST_FRAMES} steps, actual: {len(names)}")
        steps = [_whole({"steps": name}, "steps", 0, len(frames) - 1) for name in names]
        size = np.array(frames.shape[1:3], dtype="<i4")
        return _binary(request, np.frombuffer(size.tobytes() + in_color(frames[steps]).tobytes(), dtype=np.uint8))


def _place(arguments: Mapping[str, str], episode: Episode) -> tuple[int, int]:
    """Level and index of a tile that shows some of the episode."""
    level = _whole(arguments, "level", 0, MOST_LEVEL)
    return level, _whole(arguments, "index", 0, (len(episode.trace.relevant) - 1) // (TILE << level))


def _whole(arguments: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = arguments.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not low <= int(text) <= high:
        raise ValueError(f"Expect `{name}` to be an int from {low} to {high}, actual: {text!r}")
    return int(text)


def _binary(request: Request, array: np.ndarray) -> Response:
    return http_util.Respond(request, array.tobytes(), "application/octet-stream")


def _serve_file(file: Path, request: Request) -> Response:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return http_util.Respond(request, file.read_bytes(), kind)


def _application(answer: Answer) -> Any:
    """A WSGI application that turns errors about what was asked for into a message for the page."""

    @Request.application
    def respond(request: Request) -> Response:
        try:
            return answer(request)
        except KeyError as error:
            return http_util.Respond(request, {"error": str(error.args[0])}, "application/json", code=404)
        except ValueError as error:
            return http_util.Respond(request, {"error": str(error)}, "application/json", code=400)

    return respond
