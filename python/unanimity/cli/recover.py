"""`unanimity recover`: open a journal with its stores, finish what was left, and report.

The journal knows which stores take part, not how to reach them, so they are given: by address, or
as Python objects by the name of a module. Invariant: nothing is recovered without its stores.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from importlib import import_module
from typing import Any

from .._config import CoordinationConfig
from .._exceptions import ConfigError
from .._records import RecoveryReport
from .journal import existing_journal
from .output import pairs, print_json

_KINDS = {
    "sqlite": "SqliteStore",
    "files": "FileStore",
    "postgres": "PostgresStore",
    "redis": "RedisStore",
}


def recover_verb(arguments: Namespace) -> int:
    """Recover, and say what became of what."""
    journal = existing_journal(arguments.journal)
    stores = {**stores_of_module(arguments.stores), **_from_addresses(arguments.store)}
    if not stores:
        raise ConfigError(
            "recover needs the stores; give --store NAME=KIND:WHERE for each, "
            "or --stores MODULE:NAME"
        )
    report, open_ids = asyncio.run(_recover(journal, stores, arguments.settings))
    if arguments.json:
        print_json({**vars(report), "open": open_ids})
    else:
        print(pairs({name: len(ids) for name, ids in vars(report).items()}))
        for coordination_id in report.in_doubt:
            print(f"in doubt: {coordination_id}")
    return 1 if report.in_doubt else 0


async def _recover(
    journal: str, stores: dict[str, Any], config: CoordinationConfig | None
) -> tuple[RecoveryReport, list[str]]:
    from .._service import CoordinationService

    async with CoordinationService(stores, journal=journal, config=config) as service:
        report = await service.recover()
        return report, await service.list_active_coordinations()


def _from_addresses(texts: list[str]) -> dict[str, Any]:
    from .. import stores

    found = addresses_of(texts)
    return {
        name: getattr(stores, _KINDS[kind])(where, name=name)
        for name, (kind, where) in found.items()
    }


def addresses_of(texts: list[str]) -> dict[str, tuple[str, str]]:
    """The kind and the place of each store, by its name."""
    return dict(map(_address_of, texts))


def _address_of(text: str) -> tuple[str, tuple[str, str]]:
    name, equals, address = text.partition("=")
    kind, colon, where = address.partition(":")
    if not (name and equals and colon and where) or kind not in _KINDS:
        raise ConfigError(
            f"--store is {text!r}; give NAME=KIND:WHERE with a KIND of {', '.join(_KINDS)}, "
            "such as metadata=sqlite:metadata.db"
        )
    return name, (kind, where)


def stores_of_module(text: str | None) -> dict[str, Any]:
    """The stores that a module has or makes; none where none is named."""
    if text is None:
        return {}
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"--stores is {text!r}; give MODULE:NAME, such as shop.stores:make")
    # As `python -m` does, so that a module in the working directory is found.
    sys.path.insert(0, "")
    found = getattr(import_module(module_name), name, None)
    stores = found() if callable(found) else found
    if not isinstance(stores, dict):
        raise ConfigError(
            f"{text} is a {type(stores).__name__}; name a dict of stores, "
            "or a function without arguments that makes one"
        )
    return stores
