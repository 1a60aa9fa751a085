"""`unanimity doctor`: what is wrong, how bad it is, and the mend.

It looks at a journal (`doctor_file` for its disk, the open work here), at its servers
(`doctor_servers`) and at stores that are named (`doctor_stores`). Nothing is changed but a file of
4 KiB beside the journal, which is written, synced and removed. Invariants: one check that cannot be
made is a finding, and the others are made all the same; the exit code is 1 exactly where one is
bad.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .._arguments import is_postgres_journal
from .._display import text_table
from .._exceptions import UnanimityError
from .._records import CoordinationRecord, history_filter
from .findings import Finding, bad, note, ok, warning, worst_first
from .journal import CLUSTER, existing_journal, reading
from .output import print_json, say, size
from .stuck import look

if TYPE_CHECKING:
    from .._engine import JournalReader

_HEADERS = ("severity", "check", "what", "mend")
_DAY = 86_400.0
_SKEW_SECONDS = 5.0
# Below it free room is not worth a word.
_FREE_BYTES = 64 * 1024 * 1024


def doctor_verb(arguments: Namespace) -> int:
    """Look everywhere, and tell the worst first."""
    findings = worst_first(list(_findings(arguments)))
    if arguments.json:
        print_json(findings)
    else:
        say(text_table(_HEADERS, [finding.row() for finding in findings], characters_max=None))
    return 1 if any(finding.severity == "bad" for finding in findings) else 0


def _findings(arguments: Namespace) -> Iterator[Finding]:
    config, path = arguments.settings, arguments.journal
    has_cluster = config is not None and config.consensus.cluster_nodes
    # A clustered journal has no file of its own, and its cluster is asked below.
    if path != CLUSTER:
        yield from _journal(arguments, path)
    if has_cluster and config.consensus.algorithm != "local":
        from .doctor_servers import cluster_findings

        yield from cluster_findings(config)
    if config is not None:
        from .config import notes_on

        yield from (note("configuration", text) for text in notes_on(config))


def _journal(arguments: Namespace, path: str) -> Iterator[Finding]:
    """The journal's place first, then what stands in it."""
    try:
        existing_journal(path)
        if not is_postgres_journal(path):
            # Before it is opened: reading a file that SQLite holds open would drop its locks.
            from .doctor_file import file_findings

            yield from file_findings(path)
        with reading(path) as reader:
            yield from _inside(reader, arguments)
    except (UnanimityError, OSError) as error:
        yield bad("journal", str(error), "as it says; then run doctor again")


def _inside(reader: JournalReader, arguments: Namespace) -> Iterator[Finding]:
    status = reader.status()
    yield ok("schema", f"{status['engine']}, tables of version {status['schema']}")
    if facts := dict(reader.server_facts()):
        from .doctor_servers import journal_findings

        yield from journal_findings(facts)
    yield from _clock(reader)
    yield from _open_work(reader, status)
    yield from _history(reader, arguments, status)
    if arguments.store or arguments.stores is not None:
        from .doctor_stores import store_findings

        yield from store_findings(reader, arguments)


def _clock(reader: JournalReader) -> Iterator[Finding]:
    """A clock that went back would order new coordinations before old ones."""
    rows = reader.history(history_filter(None, None, None, None, 1))
    now = datetime.now(timezone.utc)
    latest = CoordinationRecord.from_engine(rows[0]).created_at if rows else now
    ahead = (latest - now).total_seconds()
    if ahead > _SKEW_SECONDS:
        yield bad(
            "clock",
            f"the latest coordination began {ahead:.0f} s in the future of this machine",
            "set the clock right (NTP); retention and lists go by it",
        )
    elif now.year < 2026:
        yield bad("clock", f"this machine is in the year {now.year}", "set the clock right (NTP)")
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M:%S}Z, behind everything that is recorded")


def _open_work(reader: JournalReader, status: dict[str, Any]) -> Iterator[Finding]:
    seen = look(reader, 30.0, status["instances_alive"])
    by_kind: dict[str, list[str]] = {}
    for one in seen.stuck:
        by_kind.setdefault(one.kind, []).append(one.coordination_id)
    told = {
        "operator": (bad, "wait for an operator", "`unanimity stuck`, then `unanimity resolve`"),
        "parked": (bad, "have parked steps", "`unanimity stuck`, then `unanimity redrive`"),
        "in doubt": (warning, "are in doubt", "`unanimity stuck`; see to the cluster"),
        "waiting": (warning, "wait for a store", "`unanimity stuck`; see to the stores"),
    }
    for kind, (make, words, mend) in told.items():
        if ids := by_kind.get(kind):
            yield make("open work", f"{len(ids)} {words}, the first is {ids[0]}", mend)
    if ids := by_kind.get("orphaned"):
        owners = {record.owner for record in seen.open} - seen.alive
        yield warning(
            "dead owners",
            f"{len(ids)} are open and their processes ({len(owners)}) are dead, "
            f"the first is {ids[0]}",
            "start a service with their stores, or `unanimity recover`",
        )
    if not seen.stuck:
        yield ok("open work", f"{len(seen.open)} are under way in {len(seen.alive)} processes")


def _history(
    reader: JournalReader, arguments: Namespace, status: dict[str, Any]
) -> Iterator[Finding]:
    config = arguments.settings
    days = 30.0 if config is None else config.retention.finished_days
    if days is None:
        yield note("retention", "finished coordinations are kept for ever", "see `unanimity gc`")
    else:
        # A day more: services remove in rounds, and only while one runs.
        old = reader.count_ended((days + 1) * _DAY)
        if old:
            yield note(
                "retention",
                f"{old} ended more than {days + 1:g} days ago",
                "`unanimity gc`, or run a service: it removes them by itself",
            )
    free, total = status["bytes_free"], status["bytes"]
    if free is not None and free > _FREE_BYTES and free > total // 2:
        what = f"{size(free)} of {size(total)} in the file are free"
        yield note("room", what, "`unanimity gc --shrink` gives it back to the disk")
