"""The wheel installs beside a project that has folders of the same names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.filterwarnings("ignore")
def test_wheel_works_beside_a_project_with_its_own_agents_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist"]
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    quick = tmp_path / "cc"  # optimising takes longer than the rest of this test
    quick.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    quick.chmod(0o755)
    subprocess.run([*build, source], check=True, capture_output=True, env=os.environ | {"CC": str(quick)})
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    project = tmp_path / "project"
    (project / "agents").mkdir(parents=True)
    (project / "agents" / "__init__.py").write_text("mine = True\n")
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import agents, expirespan.agents, expirespan.envs, expirespan.memory, expirespan.train_agent\n"
        "assert agents.mine\n"
        f"assert expirespan.agents.__file__.startswith({str(site)!r}), expirespan.agents.__file__\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True)
    assert (site / "expirespan" / "py.typed").is_file()
    assert (site / "expirespan" / "tab" / "static" / "index.js").is_file()
    assert not (site / "agents").exists()
    if sys.platform == "linux" and shutil.which("cc"):
        assert list((site / "expirespan" / "memory" / "expire_span").glob("_kernels*"))
