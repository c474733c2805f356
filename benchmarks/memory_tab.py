"""How fast the Memory tab draws a long episode: the first drawing, and frames a second while panning.

A made-up episode of 50,000 steps and 3 layers, with frames and attention, goes through an event file and TensorBoard
into a headless Chromium.  Needs the `browser` extra and a Chromium, whose path may be given as the only argument.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from expirespan.analysis.record import AttentionRecord, EpisodeTrace, LayerRecord
from expirespan.tab.summary import write_episode
from torch.utils.tensorboard import SummaryWriter

STEPS, LAYERS, SECONDS, ROUNDS = 50_000, 3, 4, 3
WINDOWS = (25_000, 10_000, 1_000, 150)
"""Steps in view while panning."""

PAN = """
async ([window, seconds]) => {
  const canvas = document.querySelector("canvas.timeline");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
  press("0");
  await new Promise((done) => setTimeout(done, 300));
  while (canvas.dataset.to - canvas.dataset.from > window) {
    press("+");
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
  const gaps = [];
  const frames = Number(canvas.dataset.frames);
  const begun = performance.now();
  let last = begun;
  let way = "d";
  while (last - begun < 1000 * seconds) {
    if (canvas.dataset.to >= 49999) way = "a";
    if (canvas.dataset.from <= 0) way = "d";
    press(way);
    const now = await new Promise((done) => requestAnimationFrame(done));
    gaps.push(now - last);
    last = now;
  }
  gaps.sort((a, b) => a - b);
  const rate = (1000 * (canvas.dataset.frames - frames)) / (last - begun);
  return { rate, slow: gaps[Math.floor(gaps.length * 0.95)] };
}
"""


def episode(seed: int = 0) -> EpisodeTrace:
    """Most memories live for some twenty steps, a few for thousands."""
    random, written = np.random.default_rng(seed), np.arange(STEPS)

    def layer() -> LayerRecord:
        span, kept = random.gamma(2, 4, STEPS), random.random(STEPS) < 0.004
        span[kept] = random.exponential(1500, kept.sum())
        deleted = np.minimum(written + np.ceil(span + 8).astype(int), STEPS)
        change = np.bincount(written, minlength=STEPS + 1) - np.bincount(deleted, minlength=STEPS + 1)
        query = np.repeat(written, 3)
        memory = np.maximum(query - random.integers(0, 9, len(query)), 0)
        return LayerRecord(
            span=span,
            deleted=deleted,
            evicted=np.zeros(STEPS, dtype=bool),
            live=change.cumsum()[:STEPS],
            attention=AttentionRecord(query=query, memory=memory, weight=np.full(len(query), 1 / 3)),
        )

    frames = random.integers(0, 255, (STEPS, 3, 3, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return EpisodeTrace(
        layers=tuple(layer() for _ in range(LAYERS)),
        relevant=random.random(STEPS) < 0.002,
        rewards=(random.random(STEPS) < 0.001).astype(float),
        actions=random.integers(0, 4, STEPS),
        values=np.sin(written / 3000).astype(np.float32),
        frames=frames,
    )


def measure(page: Any, address: str) -> dict[str, Any]:
    """Open the tab, wait for the first whole drawing, and pan."""
    page.goto(address)
    frame = page.frame_locator("iframe[src*=expirespan_memory]")
    canvas = frame.locator("canvas.timeline[data-drawn]")
    canvas.wait_for(timeout=60_000)
    inside = next(each for each in page.frames if "expirespan_memory" in each.url and "plugin_entry" in each.url)
    return {
        "first": float(canvas.get_attribute("data-drawn")),
        "pan": [inside.evaluate(PAN, [window, SECONDS]) for window in WINDOWS],
    }


def main() -> None:
    """Write the episode, serve it, measure, and print a table."""
    from playwright.sync_api import Error, sync_playwright

    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium") or shutil.which("google-chrome")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(ROUNDS):
        # TensorBoard is started anew, so that no round finds what the one before it has unpacked.
        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                write_episode(writer, episode(), "1", 1000)
            server = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", folder, "--port", str(port)]
            board = subprocess.Popen([*server, "--host", "127.0.0.1"], stderr=subprocess.DEVNULL, env=dict(os.environ))
            try:
                with sync_playwright() as driver:
                    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                    page = browser.new_page(viewport={"width": 1400, "height": 900})
                    for _ in range(100):
                        try:
                            page.goto(f"http://127.0.0.1:{port}/data/plugins_listing")
                            if '"expirespan_memory": {"disable_reload": true, "enabled": true' in page.content():
                                break
                        except Error:
                            pass  # not up yet
                        time.sleep(0.3)
                    found = measure(page, f"http://127.0.0.1:{port}/#expirespan_memory")
                    browser.close()
            finally:
                board.terminate()
                board.wait()
        print(f"first drawing {found['first'] / 1000:.2f} s after the tab's page was opened")
        for window, pan in zip(WINDOWS, found["pan"], strict=True):
            rate = f"{pan['rate']:5.1f} frames/s, slowest 5 % {pan['slow']:.0f} ms"
            print(f"  panning with {window:6d} steps in view: {rate}")


if __name__ == "__main__":
    main()
