"""The verbs that look at a configuration: config check, config show; and `--config` of the others.

Nothing is opened and nothing is changed. Invariant: secrets are hidden in everything printed.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .._config import CoordinationConfig
from .._config_parts import alerting_of, consensus_of, event_bus_of, journal_of, lock_manager_of
from .._display import plain
from .._exceptions import ConfigError
from .._views.operations import config_view
from .._views.text import text_of
from .journal import CLUSTER
from .output import print_json


def config_verb(arguments: Namespace) -> int:
    """Check a file, or show what it comes to."""
    return _check(arguments) if arguments.what == "check" else _show(arguments)


def take_config(arguments: Namespace) -> None:
    """Have the other verbs find what `--config` names; what was given beside it wins."""
    config = CoordinationConfig.from_yaml(arguments.config)
    arguments.settings = config
    if arguments.journal is None:
        # That a cluster keeps it is said when it is looked at: other verbs do not need it.
        is_in_cluster = config.consensus.cluster_nodes and config.consensus.algorithm != "local"
        default = CLUSTER if is_in_cluster else "unanimity.db"
        arguments.journal = journal_of(config) or default


def take_environment(arguments: Namespace) -> None:
    """Have the other verbs find the journal as the library does that has no file: by variables."""
    arguments.journal = journal_of(CoordinationConfig.from_mapping({})) or arguments.journal


def _check(arguments: Namespace) -> int:
    try:
        config = CoordinationConfig.from_yaml(arguments.file)
    except ConfigError as error:
        if not error.problems:
            raise
        if arguments.json:
            problems = [asdict(problem) for problem in error.problems]
            print_json({"file": arguments.file, "problems": problems, "notes": []})
        else:
            for problem in error.problems:
                print(plain(problem))
        return 1
    notes = notes_on(config)
    if arguments.json:
        print_json({"file": arguments.file, "problems": [], "notes": notes})
    else:
        given = sum(setting.where != "default" for setting in config.settings())
        print(f"{plain(arguments.file)}: {given} settings, all right")
        for note in notes:
            print(f"note: {plain(note)}")
    return 0


def notes_on(config: CoordinationConfig) -> list[str]:
    """What is no mistake in the file, and still worth to be known."""
    notes = []
    makes: list[Callable[[], Any]] = [
        lambda: consensus_of(config),
        lambda: lock_manager_of(config) if config.lock_manager.backend != "raft" else None,
        lambda: event_bus_of(config, journal_of(config)),
        lambda: alerting_of(config),
    ]
    for make in makes:
        try:
            make()
        except ConfigError as error:
            notes.append(f"a service cannot be made of it as it stands: {error}")
    return notes


def _show(arguments: Namespace) -> int:
    config = CoordinationConfig.from_yaml(arguments.file)
    if arguments.json:
        print_json(_rows(config) if arguments.origin else config.to_mapping())
        return 0
    print(text_of(config_view(config, with_origin=arguments.origin)))
    return 0


def _rows(config: CoordinationConfig) -> list[dict[str, Any]]:
    return [
        {
            "key": setting.key,
            "value": setting.shown,
            "origin": setting.origin,
            "where": setting.where,
            "line": setting.line,
            "through": setting.through,
        }
        for setting in config.settings()
    ]
