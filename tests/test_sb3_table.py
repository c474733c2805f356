"""The table of SB3's features in docs/stable-baselines3.md: its tests exist, and its refusals are those of the code."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from expirespan.agents import MemoryA2C, MemoryPPO
from expirespan.agents.arguments import REFUSED, SB3_ARGUMENTS
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common import base_class, utils

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip(" `") if place == 3 else cell.strip() for place, cell in enumerate(line.strip("|").split("|"))]
    for line in (ROOT / "docs" / "stable-baselines3.md").read_text().splitlines()
    if re.search(r"`test_\w+\.py::", line)
]


def messages() -> list[str]:
    """Every text in the code of the agents, and in SB3's that refuses for them; values in it are cut out."""
    files = [*(ROOT / "agents").rglob("*.py"), *(Path(inspect.getfile(module)) for module in (base_class, utils))]
    found = []
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_says_whether_it_works_and_names_a_test(row: list[str]) -> None:
    feature, status, _, test = row
    assert feature and status in ("works", "differs", "refused")
    file, name = test.split("::")
    body = ast.parse((ROOT / "tests" / file).read_text()).body
    assert name in [node.name for node in body if isinstance(node, ast.FunctionDef)]


def test_every_refusal_is_in_its_own_words() -> None:
    known = messages()
    refused = [row for row in ROWS if row[1] == "refused"]
    for row in refused:
        quoted = re.findall(r'"([^"]+)"', row[2])
        assert quoted, row
        for piece in (piece for words in quoted for piece in words.split("…") if len(piece) > 8):
            assert any(piece in message.replace("{{", "{") for message in known), piece
    assert len(refused) > 25


@pytest.mark.parametrize(
    ("theirs", "ours"), [(PPO, MemoryPPO), (RecurrentPPO, MemoryPPO), (MaskablePPO, MemoryPPO), (A2C, MemoryA2C)]
)
def test_every_argument_of_sb3s_algorithms_is_taken_or_refused_by_name(theirs: Any, ours: Any) -> None:
    known = {*inspect.signature(ours.__init__).parameters, *SB3_ARGUMENTS, *REFUSED, "_init_setup_model"}
    assert set(inspect.signature(theirs.__init__).parameters) <= known
    for method in ("learn", "predict", "save", "load", "set_parameters", "set_env"):
        wanted, found = (inspect.signature(getattr(kind, method)).parameters for kind in (theirs, ours))
        assert set(wanted) <= set(found), method
