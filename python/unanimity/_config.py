"""The configuration as people hold it: read from YAML or a mapping, checked, its origins known.

What the keys are, what they take and what is wrong with them is the engine's to say (`config`).
Not the building of a service from it (`_config_parts`). Invariants: all that is wrong is told at
once; a secret is in no repr and no error, and in `to_mapping()` only when it is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import _engine
from ._exceptions import ConfigError
from ._views.model import View
from ._views.operations import config_view
from ._views.viewed import Viewed

__all__ = ["ConfigProblem", "ConfigSection", "ConfigSetting", "CoordinationConfig"]

_ROOT = "coordination_service"


@dataclass(frozen=True)
class ConfigProblem:
    """One thing that is wrong with a configuration; `str()` of it is one line.

    `where` is the file, "mapping", "argument", or the variable of the environment; `line` counts
    from 1, and is None where there are no lines.
    """

    where: str
    line: int | None
    key: str
    message: str
    hint: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ConfigSetting:
    """One setting with the place that it came from.

    `shown` is the value with its secrets hidden; `where` is "default", "mapping", "argument", the
    file, or the variable; `through` is the file that holds the value, where one was named.
    """

    key: str
    value: Any
    shown: Any
    where: str
    line: int | None
    through: str | None

    @property
    def origin(self) -> str:
        """Where it came from, for people."""
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return place if self.through is None else f"{place}, in {self.through}"

    def __repr__(self) -> str:
        return f"ConfigSetting({self.key}={self.shown!r}, {self.origin})"


class ConfigSection:
    """Settings of one section, as attributes. It cannot be changed."""

    __slots__ = ("_shown", "_values")

    _values: dict[str, Any]
    _shown: dict[str, Any]

    def __init__(self, values: dict[str, Any], shown: dict[str, Any]) -> None:
        """Take what the section has: settings, and dicts for the sections inside."""
        inner = {
            name: ConfigSection(value, shown[name]) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        object.__setattr__(self, "_values", inner)
        object.__setattr__(self, "_shown", shown)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values)
            raise AttributeError(f"there is no setting {name!r} here; known are {known}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set: a configuration does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be removed: a configuration does not change")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._values})

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigSection) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigSection, (_plain(self), self._shown)


class CoordinationConfig(ConfigSection, Viewed):
    """A configuration that was checked; `config.consensus.election_timeout_ms` and so on.

    What is given later wins: defaults, then the file or the mapping, then the environment
    (`UNANIMITY_CONSENSUS_ELECTION_TIMEOUT_MS`), then arguments.
    """

    __slots__ = ("_settings",)

    _settings: tuple[ConfigSetting, ...]

    def __init__(self, settings: tuple[ConfigSetting, ...]) -> None:
        """Take settings that were checked; use `from_yaml` or `from_mapping`."""
        values: dict[str, Any] = {}
        shown: dict[str, Any] = {}
        for setting in settings:
            _put(values, setting.key, setting.value)
            _put(shown, setting.key, setting.shown)
        super().__init__(values, shown)
        object.__setattr__(self, "_settings", settings)

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str],
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> CoordinationConfig:
        """Read a YAML file.

        `environment` is `os.environ` unless it is given; `arguments` is a mapping of the file's
        form, which wins over everything. Raises ConfigError with everything that is wrong.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path is a {type(path).__name__}; give a str or a path")
        return cls(_read(os.fspath(path), None, environment, arguments))

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> CoordinationConfig:
        """Read a mapping of the form that a file has, `coordination_service` around it or not.

        The rest is as in `from_yaml`.
        """
        return cls(_read(None, mapping, environment, arguments))

    def to_mapping(self, *, masked: bool = True) -> dict[str, Any]:
        """Give everything as a mapping of the form that `from_mapping` takes.

        Secrets are hidden unless `masked=False`.
        """
        return {_ROOT: _copy(self._shown) if masked else _plain(self)}

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Give the JSON schema of a file, for editors and other checkers."""
        schema: dict[str, Any] = json.loads(_engine.config_schema())
        return schema

    def settings(self) -> tuple[ConfigSetting, ...]:
        """Give every setting, with the place that it came from."""
        return self._settings

    def setting(self, key: str) -> ConfigSetting:
        """Give one setting by its key with its sections, such as "timeouts.commit_phase..."."""
        for setting in self._settings:
            if setting.key == key:
                return setting
        raise KeyError(key)

    def _view(self) -> View:
        return config_view(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return CoordinationConfig, (self._settings,)


def _read(
    path: str | None,
    mapping: object,
    environment: Mapping[str, str] | None,
    arguments: object,
) -> tuple[ConfigSetting, ...]:
    variables = os.environ if environment is None else environment
    # What is no text to the system stays recognisable, and is told as wrong where it matters.
    readable = {
        name: value.encode("utf-8", "replace").decode() for name, value in variables.items()
    }
    rows, problems = _engine.read_config(
        path, _as_dict(mapping, "config"), readable, _as_dict(arguments, "arguments")
    )
    if problems:
        found = tuple(ConfigProblem(*problem) for problem in problems)
        error = ConfigError("\n".join(map(str, found)))
        error.problems = found
        raise error
    return tuple(ConfigSetting(*row) for row in rows)


def _as_dict(given: object, what: str) -> dict[str, Any] | None:
    """Make plain dicts of mappings, and text of paths."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what} is a {type(given).__name__}; give a mapping")
    return {name: _as_plain(value) for name, value in given.items()}


def _as_plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_plain(inner) for name, inner in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def _plain(section: ConfigSection) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, ConfigSection) else _copy(value)
        for name, value in section._values.items()
    }


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, list) else value


def as_config(config: object) -> CoordinationConfig:
    """Take a constructor's `config`: a configuration, or a mapping, which is all there is then."""
    if isinstance(config, CoordinationConfig):
        return config
    return CoordinationConfig(_read(None, {} if config is None else config, {}, None))


def config_of(config: object, arguments: Mapping[str, Any]) -> CoordinationConfig:
    """Read whatever `from_config` was given, with its overrides."""
    if isinstance(config, CoordinationConfig):
        if not arguments:
            return config
        # Its environment was read already, and is not looked up again.
        given = _escaped(config.to_mapping(masked=False))
        return CoordinationConfig.from_mapping(given, environment={}, arguments=arguments)
    if isinstance(config, Mapping):
        return CoordinationConfig.from_mapping(config, arguments=arguments)
    if isinstance(config, (str, os.PathLike)):
        return CoordinationConfig.from_yaml(config, arguments=arguments)
    raise TypeError(
        f"config is a {type(config).__name__}; give the path of a YAML file, a mapping, or a "
        "CoordinationConfig"
    )


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _escaped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


# What the engine itself takes, as plain settings by their last name.
_ENGINE = (
    "timeouts.",
    "performance.",
    "recovery.",
    "retention.",
    "database.connection_pool.",
    "lock_manager.deadlock_detection.max_wait_time_seconds",
)


def settings_of(config: CoordinationConfig, *, only_given: bool) -> dict[str, Any]:
    """Make the engine's flat settings; those that nobody gave stay its own if `only_given`."""
    return {
        setting.key.rpartition(".")[2]: setting.value
        for setting in config.settings()
        if setting.key.startswith(_ENGINE) and (setting.where != "default" or not only_given)
    }
