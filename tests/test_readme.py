"""README's commands and programs run as they stand, and what README and docs/ point to exists.

Every fenced `sh` block of README.md runs in bash and every `python` block in Python, in their order, in one folder with
links to the files of the repository.  What would take minutes or the network is shortened by programs of the same name
that come first on PATH (`SHORTENED`): they pass every argument on to the real ones and append a few of their own.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from pkgutil import resolve_name

import expirespan.envs
import gymnasium as gym
import pytest
from expirespan import evaluate, train_agent
from serving import answer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
OURS = {f"docs/{name}.md" for name in ("budget", "curricula", "environments", "memory", "results", "speed")} | {
    "README.md"
}
"""Pages that name options of this project's commands alone."""

SHORTENED = {
    "expirespan-train": """
case " $* " in
*" --resume "*) set -- "$@" --total-steps 8192 ;;
*) set -- "$@" --total-steps 4096 --env-args max_steps=40 ;;
esac
exec {python} -m expirespan.train_agent "$@"
""",
    "expirespan-evaluate": 'exec {python} -m expirespan.evaluate "$@" --episodes 4',
    "tensorboard": '[ "$#" = 2 ] && [ "$1" = --logdir ] && find "$2" -name "events.out.tfevents.*" | grep -q .',
    "pip": 'exec {python} -m pip --disable-pip-version-check "$@" --dry-run --no-deps --no-index --no-build-isolation',
}
"""In the virtual environment.  pip resolves and reads what it is asked to install, and installs nothing."""
OTHER_OPTIONS = {"--constraint", "--logdir", "--device"}
"""Of pip, TensorBoard and the benchmarks."""


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def write_program(path: Path, content: str) -> None:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder as README's reader has it after `make demo`: the repository's files, and .venv, not yet activated."""
    folder = tmp_path / "expirespan"
    folder.mkdir()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in {file.split("/")[0] for file in tracked}:
        (folder / name).symlink_to(ROOT / name)
    for name, content in SHORTENED.items():
        write_program(folder / ".venv" / "bin" / name, content.format(python=sys.executable))
    (folder / ".venv" / "bin" / "activate").write_text(f'PATH="{folder}/.venv/bin:$PATH"\n')
    write_program(tmp_path / "bin" / "make", f'exec {shutil.which("make")} --dry-run "$@"')
    return folder


def run(command: list[str], folder: Path) -> str:
    """What a program prints, which must succeed, with little on PATH."""
    path = os.pathsep.join([str(folder.parent / "bin"), os.defpath])
    environment = os.environ | {"PATH": path, "MPLBACKEND": "agg"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.skipif(not shutil.which("make") or not shutil.which("bash"), reason="needs make and bash")
def test_commands_and_programs_of_readme_run_as_they_stand(checkout: Path) -> None:
    activation = ""
    for language, content in blocks(README):
        if language == "sh":
            run(["bash", "-euc", activation + content], checkout)
            # The next block is typed into the same shell.
            activation += "".join(line + "\n" for line in content.splitlines() if line.startswith(". "))
        else:
            assert language == "python", f"a block of {language} that nobody runs"
            run([sys.executable, "-c", re.sub(r"\.learn\([\d_]+", ".learn(4_096", content)], checkout)
    assert (checkout / "runs" / "corridor" / "timeline.png").is_file()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_demo_runs_and_tensorboard_shows_it(checkout: Path) -> None:
    (checkout / ".venv" / "installed").touch()
    (checkout.parent / "bin" / "make").unlink()  # the real one, since nothing is left to install
    said = run(["make", "demo"], checkout)
    assert (checkout / "runs" / "demo" / "timeline.png").is_file()
    printed = [line.split("   #")[0].split() for line in said.splitlines() if line.startswith("  ")]
    programs = {Path(words[0]).name: words for words in printed if (checkout / words[0]).is_file()}
    assert {"expirespan-train", "expirespan-evaluate", "tensorboard"} == programs.keys()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", *programs["tensorboard"][1:], "--port", str(port)]
    served = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120  # it imports much
        while "expirespan_memory" not in answer(f"http://127.0.0.1:{port}/data/plugins_listing"):
            assert served.poll() is None and time.monotonic() < end
            time.sleep(0.1)
    finally:
        served.terminate()
        served.wait()


def test_readme_is_short_and_begins_with_what_to_run() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:10])
    assert "make demo" in lines[:30]


def offered_options(capsys: pytest.CaptureFixture) -> set[str]:
    """Every option that expirespan-train and expirespan-evaluate show in their help."""
    for program, arguments in ((train_agent, []), (train_agent, ["--algo", "a2c"]), (evaluate, [])):
        with pytest.raises(SystemExit):
            program.main([*arguments, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out)) | OTHER_OPTIONS


def missing_options(text: str, offered: Iterable[str]) -> set[str]:
    """Options that a page names and no command has."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - set(offered)


def missing_ids(text: str) -> set[str]:
    """Ids of environments that a page names and Gymnasium doesn't know."""
    return set(re.findall(r"\b(?:expirespan/|MiniGrid-)[\w-]+-v\d+\b", text)) - set(gym.registry)


def missing_files(text: str) -> set[str]:
    """Files and folders in backticks that are neither at the root nor in one of its folders."""
    named = re.findall(r"`(?:python )?((?:[a-z_0-9]+/)*(?:[a-z_0-9]+\.(?:py|c|txt|toml)|[a-z_]+/))[` ]", text)
    return {name for name in named if not (ROOT / name).exists() and not any(ROOT.glob(f"*/{name}"))}


def missing_names(text: str) -> Iterator[str]:
    """Dotted names of this package that can't be imported."""
    for name in re.findall(r"\bexpirespan(?:\.\w+)+", text):
        try:
            resolve_name(name)
        except (ImportError, AttributeError):
            yield name


def broken_links(page: str, text: str) -> Iterator[str]:
    """Relative links and pictures without their file or heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield link


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_what_a_page_points_to_exists(page: str) -> None:
    text = PAGES[page]
    assert not list(broken_links(page, text))
    assert not missing_ids(text)
    assert not missing_files(text)
    assert not list(missing_names(text))


@pytest.mark.parametrize("page", sorted(OURS))
def test_options_that_a_page_names_exist(page: str, capsys: pytest.CaptureFixture) -> None:
    assert not missing_options(PAGES[page], offered_options(capsys))


def test_what_does_not_exist_is_found() -> None:
    wrong = (
        "`--memory-budgets 3`, `expirespan/Corridors-v0`, `memory/spam.py`, `python benchmarks/result.py x`, "
        "expirespan.envs.lines.decode, expirespan.envs.lines.encode, [a](docs/nothing.md), [b](docs/speed.md#nothing), "
        "[c](docs/speed.md#training)"
    )
    assert missing_options(wrong, {"--memory-budget"}) == {"--memory-budgets"}
    assert missing_ids(wrong) == {"expirespan/Corridors-v0"}
    assert missing_files(wrong) == {"memory/spam.py", "benchmarks/result.py"}
    assert list(missing_names(wrong)) == ["expirespan.envs.lines.encode"]
    assert list(broken_links("README.md", wrong)) == ["docs/nothing.md", "docs/speed.md#nothing"]


def test_environments_are_listed_whole() -> None:
    listed = set(re.findall(r"`(expirespan/\w+-v\d+)`", PAGES["docs/environments.md"]))
    assert listed == {name for name in gym.registry if name.startswith("expirespan/")}
    assert expirespan.envs.__all__
