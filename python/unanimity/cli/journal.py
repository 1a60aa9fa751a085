"""The verbs that need the journal alone: status, list, show, resolve, migrate, version.

They open no store. Invariant: they never make a journal where there is none.
"""

from __future__ import annotations

import platform
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._arguments import is_postgres_journal, shown_journal
from .._exceptions import InvalidRequest, JournalError
from .._records import CoordinationRecord, History, history_filter
from .output import pairs, print_json, say

if TYPE_CHECKING:
    from .._engine import JournalReader


# In the place of a path, where a cluster keeps the journal.
CLUSTER = "cluster:"


@contextmanager
def reading(path: str) -> Iterator[JournalReader]:
    """Open an existing journal for looking, and let go of it."""
    from .._engine import JournalReader

    reader = JournalReader(existing_journal(path))
    try:
        yield reader
    finally:
        reader.close()


def existing_journal(path: str) -> str:
    """Check that there is such a file before anything would make it; a database is asked later."""
    if is_postgres_journal(path):
        return path
    if path == CLUSTER:
        raise JournalError(
            "the configuration has the journal kept by its cluster, which this command cannot look "
            "into; ask the service, or give --journal PATH"
        )
    if path in ("memory:", ":memory:"):
        raise JournalError(f"the journal {path} has no file to look at; give --journal PATH")
    try:
        is_file = Path(path).is_file()
        size = Path(path).stat().st_size if is_file else 0
    except PermissionError as error:
        raise JournalError(
            f"the journal {path} may not be looked at: {error.strerror}; give this user the right "
            "to enter its folder, and to read and write the file"
        ) from error
    if not is_file:
        raise JournalError(
            f"there is no journal at {path}; give the file's path with --journal PATH"
        )
    if size == 0:
        raise JournalError(
            f"the file {path} is empty: no service has used it yet; give another --journal PATH"
        )
    return path


def status_verb(arguments: Namespace) -> int:
    """Count what stands where."""
    with reading(arguments.journal) as reader:
        status = reader.status()
        # Failed without an end is what waits for an operator; with one it is history.
        failed = reader.history(history_filter("failed", None, None, None, 10_000, only_open=True))
        # This process looks, and is none of those that coordinate.
        others = len(set(status["instances_alive"]) - {reader.instance()})
    waiting = [row["coordination_id"] for row in failed]
    status["needs_operator"] = waiting
    if arguments.json:
        print_json(status)
    else:
        _print_status(status, waiting, others)
    return 1 if waiting else 0


def _print_status(status: dict[str, Any], waiting: list[str], processes: int) -> None:
    states = {str(name): int(count) for name, count in status["states"].items()}
    say(
        pairs(
            {
                "journal": status["location"],
                "schema": status["schema"],
                "processes": processes,
                "coordinations": sum(states.values()),
                **{f"  {name}": count for name, count in sorted(states.items()) if count},
            }
        )
    )
    if waiting:
        say(f"{len(waiting)} wait for an operator, the first is {waiting[0]}: `unanimity stuck`")


def list_verb(arguments: Namespace) -> int:
    """List coordinations, the latest first."""
    chosen = filter_of(arguments, arguments.limit)
    with reading(arguments.journal) as reader:
        rows = reader.history(chosen)
    records = [CoordinationRecord.from_engine(row) for row in rows]
    if arguments.json:
        print_json(records)
    else:
        say(str(History(records)))
    return 0


def filter_of(arguments: Namespace, limit: int) -> dict[str, Any]:
    """What --state, --type, --store, --since and --until come to."""
    return history_filter(
        arguments.state,
        arguments.type,
        arguments.store,
        _moment("--since", arguments.since),
        limit,
        until=_moment("--until", arguments.until),
    )


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        # Until Python 3.11 the parser does not know "Z".
        moment = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
    except ValueError:
        raise InvalidRequest(
            f"{option} is {text!r}; give a time such as 2030-01-31T12:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def show_verb(arguments: Namespace) -> int:
    """Show everything about one coordination."""
    with reading(arguments.journal) as reader:
        row = reader.describe(arguments.id)
    if row is None:
        raise InvalidRequest(
            f"the journal {shown_journal(arguments.journal)} knows no coordination {arguments.id}; "
            "`unanimity list` shows the latest"
        )
    return _print_record(row, arguments)


def resolve_verb(arguments: Namespace) -> int:
    """Put an operator's decision into the journal."""
    with reading(arguments.journal) as reader:
        row = reader.resolve(arguments.id, arguments.outcome, arguments.reason)
    return _print_record(row, arguments)


def _print_record(row: dict[str, Any], arguments: Namespace) -> int:
    record = CoordinationRecord.from_engine(row)
    if arguments.json:
        print_json(record)
    else:
        say(str(record))
    return 0


def migrate_verb(arguments: Namespace) -> int:
    """Bring the journal's tables to this version."""
    with reading(arguments.journal) as reader:
        status = reader.migrate()
    facts = {"journal": status["location"], "schema": status["schema"]}
    if arguments.json:
        print_json(facts)
    else:
        say(pairs(facts))
    return 0


def version_verb(arguments: Namespace) -> int:
    """Say which version this is."""
    from .._engine import version

    facts = {
        "unanimity": version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if arguments.json:
        print_json(facts)
    else:
        say(pairs(facts))
    return 0
