"""Checks of configuration values: each raises an error that names the argument, the rule and the value received."""

import math
from collections.abc import Collection
from numbers import Integral, Real

EXACT = 2**53
"""Whole numbers up to this are exact as floats."""


def check_whole(name: str, value: object, *, at_least: int, at_most: int = EXACT) -> int:
    """An int of Python's or NumPy's (not a bool) from `at_least` to `at_most`; returns it as Python's."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"Expect `{name}` to be an int, actual: {value!r}")
    number = int(value)
    if number < at_least:
        raise ValueError(f"Expect `{name}` to be at least {at_least}, actual: {value}")
    if number > at_most:
        raise ValueError(f"Expect `{name}` to be at most {at_most}, actual: {value}")
    return number


MOST_LAYERS = 1024


def check_sizes(config: object, *names: str) -> None:
    """Sizes of a network that a configuration has under these names, each at least 1, `layers` at most `MOST_LAYERS`.

    Layers are made one by one: so many that they don't fit into memory would take it all before they fail.
    """
    for name in names:
        check_whole(name, getattr(config, name), at_least=1, at_most=MOST_LAYERS if name == "layers" else EXACT)


def check_bool(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"Expect `{name}` to be a bool, actual: {value!r}")
    return value


def check_number(name: str, value: object) -> float:
    """A finite int or float of Python's or NumPy's (not a bool); returns it as a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"Expect `{name}` to be a number, actual: {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"Expect `{name}` to be finite, actual: {value}")
    return float(value)


def check_positive(name: str, value: object, at_most: float = math.inf) -> None:
    """A finite number above 0, and not above `at_most`."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"Expect `{name}` to be positive, actual: {value}")
    if number > at_most:
        raise ValueError(f"Expect `{name}` to be at most {at_most:g}, actual: {value}")


def check_not_negative(name: str, value: object, below: float = math.inf) -> None:
    """A finite number of at least 0 and less than `below`."""
    number = check_number(name, value)
    if not 0 <= number < below:
        limit = "" if below == math.inf else f" and less than {below:g}"
        raise ValueError(f"Expect `{name}` to be at least 0{limit}, actual: {value}")


def check_fraction(name: str, value: object) -> None:
    """A number strictly between 0 and 1."""
    if not 0 < check_number(name, value) < 1:
        raise ValueError(f"Expect `{name}` to be between 0 and 1, both excluded, actual: {value}")


def check_share(name: str, value: object) -> None:
    """A number from 0 to 1."""
    if not 0 <= check_number(name, value) <= 1:
        raise ValueError(f"Expect `{name}` to be between 0 and 1, actual: {value}")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """One of the choices."""
    if value not in choices:
        raise ValueError(f"Expect `{name}` to be one of {', '.join(map(str, choices))}, actual: {value!r}")
