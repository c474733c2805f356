"""Settings that were published, each by one name: `expirespan-train-sequence --preset NAME`.

A preset stands for the options below; those that are given beside it, before or after, replace its own.  Sizes, steps
and penalties are those of Sukhbaatar et al. (2021) and its code.  What differs in this project: a step attends to its
own memory, reads how much it has attended to, and its projections have biases; ages have a bias beside their keys;
training begins without memories where the paper's begins with blank ones.
"""

from dataclasses import dataclass

from ..checks import check_choice
from .arguments import given


@dataclass(frozen=True)
class Preset:
    """Options by one name."""

    said: str
    """What it is, in a few words."""
    options: str
    """As on the command line."""


PAPER = "--core expire-span --memory-budget None --optimizer adam --shared-positions --span-lr-scale 1"
ENWIK8 = (
    f"--task text {PAPER} --no-pre-norm --initial-span 0.1 --penalty-weight 1e-6 --max-grad-norm 0.3 --shorten-spans"
)
COLLISION = (
    f"--task collision {PAPER} --layers 6 --width 512 --ff-width 1024 --heads 4 --segment 256 --position-window 256 "
    "--ramp 128 --penalty-weight 2e-6 --initial-span 0.01 --learning-rate 1e-4 --warmup 1000 --batch-size 512 "
    "--attention-dropout 0.1 --activation-dropout 0.1 --max-grad-norm 0.1 --depth-scaled --updates 100000"
)
PRESETS = {
    "enwik8-12l": Preset(
        "enwik8 with 12 layers, 38M parameters: 0.99 bits per byte in the paper",
        f"{ENWIK8} --layers 12 --width 512 --ff-width 2048 --heads 8 --segment 512 --position-window 512 "
        "--max-span 16384 --ramp 128 --batch-size 512 --learning-rate 7e-4 --warmup 8000 --attention-dropout 0.3 "
        "--activation-dropout 0.3 --updates 100000",
    ),
    "enwik8-8l": Preset(
        "enwik8 with 8 layers for one GPU; penalty, warm-up, updates and no dropout are this project's choice",
        f"{ENWIK8} --layers 8 --width 256 --ff-width 1024 --heads 4 --segment 256 --position-window 256 "
        "--max-span 4096 --ramp 64 --pre-div 64 --batch-size 64 --learning-rate 3e-4 --warmup 8000 --updates 100000",
    ),
    "collision-16k": Preset(
        "Object Collision, spans up to 16,384: an error of 52.2 % in the paper", f"{COLLISION} --max-span 16384"
    ),
    "collision-32k": Preset("the same, spans up to 32,768: 36.7 %", f"{COLLISION} --max-span 32768"),
    "collision-64k": Preset("the same, spans up to 65,536: 26.7 %", f"{COLLISION} --max-span 65536 --shorten-spans"),
    "copy-16k": Preset(
        "Copy over 20,000 distractors; sizes are this project's choice, the spans the paper's",
        f"--task copy --task-args distractors=20000 {PAPER} --layers 6 --width 512 --ff-width 1024 --heads 4 "
        "--segment 256 --position-window 256 --max-span 16384 --ramp 128 --initial-span 0.1 --penalty-weight 1e-6 "
        "--learning-rate 1e-4 --warmup 1000 --batch-size 64 --depth-scaled --updates 100000",
    ),
}


def with_preset(args: list[str]) -> list[str]:
    """The arguments of a command line after the options of the preset that they name last, if any.

    A budget that is given replaces the penalty of the preset.  A run that is resumed has the options of its own preset
    already.  Raises ValueError where there is no preset of that name.
    """
    asked = given(args)
    chosen = asked.get("preset", "None")
    if chosen == "None" or "resume" in asked:
        return args
    check_choice("preset", chosen, PRESETS)
    without = ["--penalty-weight", "None"] if asked.get("memory_budget", "None") != "None" else []
    return [*PRESETS[chosen].options.split(), *without, *args]
