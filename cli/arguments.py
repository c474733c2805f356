"""What both programs share: their arguments as a configuration, and what is wrong with them in one line.

tyro says what is wrong in a box and leaves with 2; here every error about what was asked for is one line, and leaves
with 1.
"""

import contextlib
import difflib
import io
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import tyro

COUNTS = (
    *("total_steps", "updates", "n_steps", "batch_size", "num_envs", "max_episode_steps", "episodes", "filmstrip"),
    *("log_every", "checkpoint_every", "evaluate_every", "timeline_every", "timeline_steps", "record_steps"),
    *("windows", "evaluate_windows", "sample_text"),
)
"""Options that are large numbers, which may be written as 1e6, 1_000_000 or 1M too."""
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


def read(kind: Any, args: list[str], prog: str, default: Any = None) -> Any:
    """The configuration of a kind that these arguments describe.

    Args:
        kind: The class, or what tyro makes one of.
        args: As the shell hands them over.
        prog: Name of the program.
        default: What is in force where nothing is given, if not the defaults of the class.

    Raises:
        ValueError: Where they describe none; the message is one line.
    """
    known = options(kind if default is None else default)
    check_options(args, known)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=[*with_whole_counts(args)], default=default, prog=prog)
    except SystemExit as end:
        if not end.code:
            raise  # --help
        raise ValueError(_first_words(end) or as_a_rule(in_one_line(said.getvalue()), args, known)) from end


def options(config: Any) -> dict[str, Any]:
    """The options of a configuration, or of its class, with those of its parts and their values, by name."""
    named: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name, None)
        named |= options(value) if is_dataclass(value) else {field.name: value}
    return named


def with_options(config: Any, changes: Mapping[str, Any]) -> Any:
    """A configuration with other values of these options, its own or those of its parts; unknown names are ignored."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    parts = {name: with_options(value, changes) for name, value in values.items() if is_dataclass(value)}
    return replace(config, **parts, **{name: changes[name] for name in values if name in changes})


def given(args: list[str]) -> dict[str, str]:
    """The options among the arguments, each with the text after it ("" where another option follows)."""
    found = {}
    for word, after in zip(args, [*args[1:], ""], strict=False):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value if equals else "" if after.startswith("--") else after
    return found


def check_options(args: list[str], known: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that does not exist, with one that may have been meant."""
    names = [*known, *(f"no_{name}" for name, value in known.items() if isinstance(value, bool))]
    for name in given(args):
        if name not in names and name != "help" and not name.startswith("tyro_"):
            raise ValueError(_not_listed(f"--{name.replace('_', '-')}", names))


def _not_listed(words: str, names: Collection[str]) -> str:
    """What is wrong with words that are no option; with one that may have been meant where the first looks like one."""
    first = words.split(", ")[0]
    near = difflib.get_close_matches(first.strip("-").replace("-", "_"), names, n=1) if first.startswith("-") else []
    hint = f"; did you mean --{near[0].replace('_', '-')}?" if near else ""
    return f"Expect only options that --help lists, actual: {words}{hint}"


def with_whole_counts(args: list[str]) -> Iterator[str]:
    """The arguments with counts as Python writes them.  Raises ValueError for one that is no whole number."""
    counts = ""
    for word in args:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            counts = name.replace("-", "_") if name.replace("-", "_") in COUNTS else ""
            if equals and counts:
                yield f"--{name}={_whole(counts, value)}"
                counts = ""
                continue
        elif counts:
            word, counts = _whole(counts, word), ""
        yield word


def _whole(name: str, text: str) -> str:
    if text == "None":
        return text
    parts = re.fullmatch(r"(-?[\d_]+(?:\.\d*)?(?:e\+?\d+)?)([kM]?)", text)
    number = float(parts[1].replace("_", "")) * UNITS[parts[2]] if parts else 0.5
    if not number.is_integer():
        said = "a whole number, such as 1000000, 1_000_000, 1e6 or 1M"
        raise ValueError(f"Expect `{name}` to be {said}, actual: {text!r}")
    return str(int(number))


SIZES = (
    *("width", "ff_width", "layers", "convolution", "position_window", "window", "compressed"),
    *("num_envs", "n_steps", "segment", "batch_size", "timeline_steps"),
)
"""Options that the memory a training takes goes by."""
LACKING = re.compile("allocate memory|out of memory|Storage size calculation overflowed|Maximum allowed dimension")
"""How torch says that there is no memory for something, and NumPy where it doesn't raise MemoryError."""


def sizes_of(config: Any) -> dict[str, Any]:
    """The `SIZES` among the options of a configuration, with their values."""
    return {name: value for name, value in options(config).items() if name in SIZES}


@contextlib.contextmanager
def within_memory(sizes: Mapping[str, Any]) -> Iterator[None]:
    """Let a lack of memory become a ValueError that names the largest of these sizes; what is no number is ignored."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        if not (isinstance(error, MemoryError) or LACKING.search(said)):
            raise
        number, name = max((value, name) for name, value in sizes.items() if isinstance(value, int))
        rule = f"Expect `{name}`, the largest size, to be one for which there is memory, actual: {number}"
        raise ValueError(f"{rule} ({said})") from error


def check_target(name: str, path: Path) -> None:
    """Raise ValueError where no file can be written to a path."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"Expect `{name}` to be a file in an existing folder, actual: {path}")


def parse_env_args(pairs: Collection[str], option: str = "env_args") -> dict[str, Any]:
    """NAME=VALUE pairs as arguments; a VALUE is read as JSON where it is JSON, else as text.

    Raises ValueError, which names the option that they come from, for anything else and for a name given twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"Expect `{option}` to be NAME=VALUE, actual: {pair!r}")
        if name in arguments:
            raise ValueError(f"Expect `{option}` to name {name} once, actual: {pair!r} as well")
        try:
            arguments[name] = json.loads(value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def leave(prog: str, error: Exception) -> NoReturn:
    """End the program with an error in one line; one that is not this project's with where it was raised."""
    place = foreign_place(error)
    sys.exit(f"{prog}: {' '.join(str(error).split())}{f' ({place})' if place else ''}")


def foreign_place(error: Exception) -> str:
    """File and line where an error was raised; "" where that is in this project."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        ours = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in ("expirespan", "__main__")
        place = "" if ours else f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _first_words(end: BaseException) -> str:
    """What a check of ours said, which tyro caught; "" where it was tyro that found something."""
    seen: BaseException | None = end
    while seen is not None:
        if str(seen).startswith("Expect "):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return ""


UNREAD = (
    (r"no type matching \{None\}\|(\w+) could be instantiated from \['(.*?)'\]", "{} or None"),
    (r"could not convert string to (float): '(.*)'", "{}"),
    (r"invalid literal for (int)\(\) with base 10: '(.*)'", "{}"),
)
"""How tyro says that a number can't be read, with what it should have been and the value; and what to call that."""


def as_a_rule(said: str, args: list[str], known: Mapping[str, Any]) -> str:
    """What tyro said of these arguments as this project says it: the option, the rule and the value."""
    for pattern, rule in UNREAD:
        if found := re.fullmatch(rf"Error parsing --([\w-]+): {pattern}.*", said):
            name, kind, value = found.groups()
            wanted = rule.format("a whole number" if kind.lower() == "int" else "a number")
            return f"Expect `{name.replace('-', '_')}` to be {wanted}, actual: {value!r}"
    if found := re.fullmatch(r"Error parsing --([\w-]+): Could not find valid parse for arguments: \[(.*)\]", said):
        return f"Expect `{found[1].replace('-', '_')}` to be whole numbers, actual: {found[2]}"
    if found := re.fullmatch(r"Missing value for argument '--([\w-]+)'.*", said):
        return f"Expect `{found[1].replace('-', '_')}` to come with a value, actual: none"
    if found := re.fullmatch(r"invalid choice (.*) for argument '--([\w-]+)'\. Expected one of \((.*)\)\.", said):
        return f"Expect `{found[2].replace('-', '_')}` to be one of {found[3].replace(chr(39), '')}, actual: {found[1]}"
    if found := re.fullmatch(r"Unrecognized options: (.*)", said):
        return _unrecognized(found[1], args, known)
    return said


def _unrecognized(words: str, args: list[str], known: Mapping[str, Any]) -> str:
    """What is wrong with words that tyro has no use for: they are no options, or follow one that takes no value."""
    for name, value in given(args).items():
        flag = name.removeprefix("no_").replace("-", "_")
        if isinstance(known.get(flag), bool) and value == words:
            word = flag.replace("_", "-")
            return f"Expect `{flag}` without a value, as --{word} or --no-{word}, actual: {value!r}"
    return _not_listed(words, known)


def in_one_line(box: str) -> str:
    """What stands in the first part of one of tyro's boxes."""
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub("\x1b\\[[0-9;]*m", "", box).splitlines()]
    begun = lines[1:] if lines and set(lines[0]) & {"─"} else lines
    kept = []
    for line in begun:
        if set(line) == {"─"}:
            break
        kept.append(line)
    return " ".join(" ".join(kept).split())
