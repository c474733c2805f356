"""The benchmarks of speed run on small sizes: what they write, and that what is there isn't measured again."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import efficiency
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "--widths 16 --live 40 --contexts 256 --layers 1 --rows 2 --rounds 1"
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peaks of memory without it")


def run(script: str, options: str) -> str:
    # In a process of its own: the benchmark's are copies of one that has done nothing but import.
    command = [sys.executable, str(BENCHMARKS / script), *options.split()]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def call(main: Callable[[], None], options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *options.split()])
    main()


def test_efficiency_measures_each_size_once_and_sets_it_beside_the_dense_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "efficiency.csv"
    run("efficiency.py", f"{SMALL} --cores expire-span dense compressive lstm --results {results}")
    with results.open(newline="") as file:
        lines = list(csv.DictReader(file))
    sizes = [(line["core"], line["live"], line["context"]) for line in lines]
    assert sizes == [
        ("lstm", "0", "0"),
        ("expire-span", "40", "40"),
        ("dense", "40", "40"),
        ("compressive", "40", "99"),
        ("expire-span", "40", "256"),
        ("dense", "40", "256"),
    ]
    assert all(float(line["milliseconds"]) > 0 and float(line["megabytes"]) > 0 for line in lines)
    before = results.read_text()
    call(efficiency.main, f"{SMALL} --cores expire-span lstm --results {results}", monkeypatch)
    assert capsys.readouterr().out == "" and results.read_text() == before
    call(efficiency.main, f"--table --results {results}", monkeypatch)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(lines)
    assert table[4].startswith("| 16 | 40 | 40 | dense |") and table[4].endswith("| 1.00 | 1.00 |")


def test_long_stream_tells_time_and_memory_of_every_tenth() -> None:
    said = run("long_stream.py", "--tokens 2560 --live 40 --context 256 --width 16 --layers 1").splitlines()
    assert float(said[0].split()[-1]) == pytest.approx(40, rel=0.1)
    assert [line.split()[0] for line in said[2:]] == [str(tenth) for tenth in range(1, 11)]
