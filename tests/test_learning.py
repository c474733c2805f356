"""Corridor is learned, and only with memory.  Minutes long: run with `pytest -m slow`."""

import json
from pathlib import Path

import pytest
from expirespan import evaluate, train_agent


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "low", "high"), [((), 0.95, 1.0), (("--capacity", "0"), 0.4, 0.6)])
def test_short_corridors_need_memory(extra: tuple[str, ...], low: float, high: float, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = ["--env", "expirespan/CorridorShort-v0", "--total-steps", "300000", "--ramp", "2", "--memory-budget", "4"]
    train_agent.main([*short, *extra, "--out", str(run)])
    evaluate.main([str(run), "--episodes", "500", "--json", str(tmp_path / "e.json")])
    success = json.loads((tmp_path / "e.json").read_text())["success"]["mean"]
    assert low <= success <= high
