"""The checks of arguments, where the memory's own modules look for them; they stand in `expirespan.checks`."""

from ..checks import (
    check_bool,
    check_choice,
    check_fraction,
    check_not_negative,
    check_number,
    check_positive,
    check_share,
    check_whole,
)

__all__ = [
    "check_bool",
    "check_choice",
    "check_fraction",
    "check_not_negative",
    "check_number",
    "check_positive",
    "check_share",
    "check_whole",
]
