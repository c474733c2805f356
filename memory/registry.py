"""The cores by name: what `--core`, `policy_kwargs={"core": ...}` and checkpoints can ask for."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from numbers import Number
from typing import Any

from .adaptive_span import AdaptiveSpanConfig
from .compressive import CompressiveConfig
from .core import CoreConfig
from .expire_span.config import ExpireSpanConfig
from .gated_delta_net import GatedDeltaNetConfig
from .gtrxl import GTrXLConfig
from .min_gru import MinGRUConfig
from .none import NoMemoryConfig
from .recurrent import GRUConfig, LSTMConfig
from .transformer_xl import TransformerXLConfig

CORES: dict[str, type[CoreConfig]] = {}
"""The configuration of each core by its name."""


def register(config: type[CoreConfig]) -> type[CoreConfig]:
    """Make a core known by its `name`; usable as a decorator.  Raises ValueError where the name is taken."""
    if CORES.setdefault(config.name, config) is not config:
        raise ValueError(f"Expect `name` to be that of no other core, actual: {config.name}")
    return config


for known in (
    ExpireSpanConfig,
    TransformerXLConfig,
    GTrXLConfig,
    AdaptiveSpanConfig,
    CompressiveConfig,
    LSTMConfig,
    GRUConfig,
    MinGRUConfig,
    GatedDeltaNetConfig,
    NoMemoryConfig,
):
    register(known)


def _plain_number(value: Any) -> Any:
    """A number of NumPy's as Python's, which torch takes for sizes and a file can hold; anything else as it is."""
    item = getattr(value, "item", None)  # Python's own have none
    return item() if item is not None and isinstance(value, Number) else value


def core_config(
    core: str | CoreConfig | None = None, settings: CoreConfig | Mapping[str, Any] | None = None
) -> CoreConfig:
    """The configuration of a core.

    Args:
        core: Its name, "expire-span" where None, or its configuration.
        settings: Fields of its configuration that are not the defaults, or the configuration.

    Raises:
        ValueError: Where there is no core of this name, or `settings` are those of another one.
        TypeError: Where it has no setting of a name in `settings`.
    """
    if isinstance(settings, CoreConfig):
        if core not in (None, settings.name, settings):
            raise ValueError(f"Expect `memory` to be settings of {core}, actual: {settings}")
        return settings
    if isinstance(core, CoreConfig):
        if settings:
            raise ValueError(f"Expect no `memory` beside a configuration as `core`, actual: {dict(settings)}")
        return core
    name = ExpireSpanConfig.name if core is None else core
    if name not in CORES:
        near = difflib.get_close_matches(str(name), CORES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expect `core` to be one of {', '.join(CORES)}, actual: {name!r}{hint}")
    config = CORES[name]
    given = {setting: _plain_number(value) for setting, value in (settings or {}).items()}
    names = [field.name for field in fields(config)]
    if unknown := [setting for setting in given if setting not in names]:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise TypeError(f"Expect arguments of `memory` for {name}, actual: `{unknown[0]}`{hint}")
    return config(**given)
