"""The C under AddressSanitizer and UndefinedBehaviorSanitizer: nothing is read or written past its end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from expirespan.memory.expire_span import compiled

SOURCE = Path(__file__).parents[1] / "memory" / "expire_span" / "kernels.c"
OF_BUILDS = {"_kernels": [], "_kernels_avx2": ["-march=x86-64-v3"], "_kernels_avx512": ["-march=x86-64-v4"]}
"""Options of the compiler as pyproject.toml has them."""
PROGRAM = """
import sys
import torch
from pathlib import Path
from expirespan.memory import AdaptiveSpanConfig, ExpireSpanConfig, laws
from expirespan.memory.expire_span import compiled

for path in sys.argv[1:]:
    print(Path(path).stem, flush=True)
    library = compiled.load(Path(path))
    assert library is not None
    compiled.library = lambda library=library: library
    shape = {"heads": 2, "ff_width": 9, "max_span": 12.0, "ramp": 3.0}
    for settings in (
        {"width": 10, "position_window": 5},
        {"width": 6, "capacity": 4, "position_window": 0, "layers": 1},
        {"width": 34, "pre_norm": False, "position_window": 40},
    ):
        for dtype in (torch.float32, torch.float64):
            core = ExpireSpanConfig(**shape, **settings).build().to(dtype)
            laws.acting_is_the_same(core)
            laws.gradients_are_finite_and_end_at_the_segment(core)
    core = ExpireSpanConfig(**shape, width=10, position_window=5).build()
    for value in (1e30, float("nan"), float("inf")):  # weights of which nothing comes that is a number
        for layer in core.stack():
            layer.norm.weight.data[:] = value
        with torch.no_grad():
            state, resets = core.initial_state(2), torch.zeros(2, 30, dtype=torch.bool)
            state = core(torch.randn(2, 30, 10), state, resets).state
            core(torch.randn(2, 1, 10), state, resets[:, :1])
    core = AdaptiveSpanConfig(width=6, heads=2, ff_width=9, window=9, ramp=2.0).build()
    core.layers[0].share.data.copy_(torch.tensor([0.0, 1.0]))  # a head whose older memories have a score of -inf
    laws.acting_is_the_same(core)
    laws.gradients_are_finite_and_end_at_the_segment(core)
print("done")
"""


def test_no_access_is_out_of_bounds_and_no_behaviour_undefined(tmp_path: Path) -> None:
    """Of every build that this machine can run."""
    if not shutil.which("gcc") or sys.platform != "linux":
        pytest.skip("no gcc on Linux")
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("gcc has no AddressSanitizer here")
    builds = [path.name.split(".")[0] for path in compiled.builds()]
    flags = ["-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-psabi"]
    libraries = [tmp_path / f"{build}.so" for build in builds]
    for build, library in zip(builds, libraries, strict=True):
        subprocess.run(["gcc", *flags, *OF_BUILDS[build], "-shared", "-fPIC", SOURCE, "-o", library, "-lm"], check=True)
    # Leaks are Python's and torch's; the C of this project frees what it takes in the function that took it.
    surroundings = {"LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *libraries], env=os.environ | surroundings, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.split()) == (0, [*builds, "done"]), ran.stdout + ran.stderr[-3000:]
