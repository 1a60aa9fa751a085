"""Settings given as a mapping, checked and made flat for the engine. No file is read here.

Only what this version acts upon is taken: a setting that would be ignored is an error.
Invariant: a setting left out stays the engine's own default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._exceptions import ConfigError

_SECONDS = (0.001, 86_400.0 * 365)
_COUNT = (1, 1_000_000)

# By section, each setting with its least and greatest value.
_SETTINGS: dict[str, dict[str, tuple[float, float]]] = {
    "timeouts": {
        "default_transaction_timeout_seconds": _SECONDS,
        "prepare_phase_timeout_seconds": _SECONDS,
        "commit_phase_timeout_seconds": _SECONDS,
    },
    "performance": {
        "max_concurrent_coordinations": _COUNT,
        "max_queued_coordinations": _COUNT,
        "coordination_worker_threads": (1, 1024),
        "batch_size": _COUNT,
        "batch_timeout_ms": (0, 60_000),
    },
    "recovery": {
        "recovery_interval_seconds": _SECONDS,
        "orphan_interval_seconds": _SECONDS,
    },
    "retention": {
        "finished_days": (1e-6, 365_000.0),
        "retention_interval_seconds": _SECONDS,
    },
}
# None stands for "for ever".
_ENDLESS = frozenset({"finished_days"})
_WHOLE = frozenset(_SETTINGS["performance"])


def settings_of(config: object) -> dict[str, Any]:
    """Make the engine's flat settings of `config`: None, or a mapping by section."""
    if config is None:
        return {}
    sections = _mapping(config, "config")
    if set(sections) == {"coordination_service"}:
        sections = _mapping(sections["coordination_service"], "coordination_service")
    flat: dict[str, Any] = {}
    for name, section in sections.items():
        known = _SETTINGS.get(name)
        if known is None:
            raise ConfigError(
                f"config['{name}'] is not a section that this version acts upon; "
                f"use {' or '.join(_SETTINGS)}"
            )
        for key, value in _mapping(section, f"config['{name}']").items():
            flat[key] = _checked(f"config['{name}']['{key}']", key, value, known)
    return flat


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is a {type(value).__name__}; give a mapping")
    return value


def _checked(where: str, key: str, value: Any, known: dict[str, tuple[float, float]]) -> Any:
    if key not in known:
        raise ConfigError(f"{where} is unknown; known are {', '.join(known)}")
    if value is None and key in _ENDLESS:
        return None
    wanted = "a whole number" if key in _WHOLE else "a number"
    types = (int,) if key in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, types):
        raise ConfigError(f"{where} is {value!r}; give {wanted}")
    least, greatest = known[key]
    if not least <= value <= greatest:
        raise ConfigError(f"{where} is {value!r}; give {wanted} from {least:g} to {greatest:g}")
    return value
