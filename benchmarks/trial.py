"""The command line that the trials share: how many, from which seed, and how many faults there were."""

import argparse
import sys


def parser(description: str | None, count: int, unit: str) -> argparse.ArgumentParser:
    """With `--count` (of this unit) and `--seed`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--count", type=int, default=count, help=f"{unit} to try")
    made.add_argument("--seed", type=int, default=0)
    return made


def finish(faults: list[str], count: int, unit: str) -> None:
    """Say how many faults there were, with the first twenty, and end with 1 where there were any."""
    print(*(f"FAULT {fault}" for fault in faults[:20]), sep="\n")
    print(f"{len(faults)} faults in {count} {unit}")
    sys.exit(bool(faults))
