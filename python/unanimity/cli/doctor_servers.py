"""The part of `doctor` that asks servers: PostgreSQL databases, and the nodes of a cluster.

Only questions; nothing is changed there. Invariant: a server that cannot be reached is a finding.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._arguments import shown_journal
from .._config import CoordinationConfig
from .._exceptions import UnanimityError
from .doctor_file import room_findings
from .findings import Finding, bad, note, ok, warning

_VERSION_LEAST = 12
# The names of the journal's own facts, and those that matter where transactions are prepared.
_SETTINGS = """
    SELECT current_setting('server_version_num') AS version,
        current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes,
        pg_is_in_recovery()::text AS is_standby,
        extract(epoch FROM clock_timestamp())::text AS clock,
        current_setting('max_prepared_transactions') AS prepared_most,
        (SELECT count(*) FROM pg_prepared_xacts)::text AS prepared,
        current_setting('default_transaction_isolation') AS isolation
"""
_SKEW_SECONDS = 5.0
_ASK_SECONDS = 10.0


def journal_findings(facts: dict[str, str]) -> Iterator[Finding]:
    """Everything about the server of a journal, which has just told these facts."""
    yield from _judged("journal", facts, time.time())


def store_server_findings(check: str, dsn: str) -> Iterator[Finding]:
    """Everything about the server of a store, in which transactions are prepared."""
    try:
        facts = asyncio.run(_facts(dsn))
    except (UnanimityError, asyncio.TimeoutError) as error:
        words = str(error) or f"{shown_journal(dsn)} did not answer within {_ASK_SECONDS:g} s"
        yield bad(check, words, "see to the server, its address and the user's rights")
        return
    yield from _judged(check, facts, time.time())
    yield from _prepared(check, facts)


async def _facts(dsn: str) -> dict[str, str]:
    from ..stores import PostgresStore

    store = PostgresStore(dsn, name="doctor", min_connections=1, max_connections=2)
    try:
        rows = await asyncio.wait_for(store.fetch(_SETTINGS), _ASK_SECONDS)
        return rows[0]
    finally:
        await store.close()


def _judged(check: str, facts: dict[str, str], now: float) -> Iterator[Finding]:
    major = int(facts["version"]) // 10_000
    if major < _VERSION_LEAST:
        yield bad(check, f"PostgreSQL {major} is too old", f"use {_VERSION_LEAST} or later")
    else:
        yield ok(check, f"PostgreSQL {major}")
    if facts["is_standby"] == "true":
        yield bad(check, "this server is a standby, and takes no writes", "name the primary")
    for name in ("fsync", "full_page_writes"):
        if facts[name] != "on":
            what = f"{name} is off: what was committed can be lost or torn when the power fails"
            yield bad(check, what, f"set {name} = on and reload the server")
    skew = float(facts["clock"]) - now
    if abs(skew) > _SKEW_SECONDS:
        where = "ahead of" if skew > 0 else "behind"
        what = f"the server's clock is {abs(skew):.0f} s {where} this machine's"
        yield warning(check, what, "set both clocks right (NTP)")


def _prepared(check: str, facts: dict[str, str]) -> Iterator[Finding]:
    """A server that has room for none is refused by the store itself, which says how to mend it."""
    most, used = int(facts["prepared_most"]), int(facts["prepared"])
    what = f"{used} of max_prepared_transactions = {most} are in use"
    if used * 10 >= most * 8:
        yield warning(check, what, "raise it and restart the server; see `unanimity stuck`")
    else:
        yield ok(check, what)
    if facts["isolation"] != "read committed":
        what = f"default_transaction_isolation is {facts['isolation']}"
        yield note(check, what, "a store needs a row more for each transaction there")


def cluster_findings(config: CoordinationConfig) -> Iterator[Finding]:
    """Whether the cluster has a majority and a leader; and this node's own folder."""
    from .raft import client_of

    if config.data_dir is not None:
        yield from _node_folder(Path(config.data_dir))
    secret = config.setting("secret").through
    if secret is not None:
        yield from _secret(Path(secret))
    arguments = Namespace(
        node=None,
        settings=config,
        secret_file=None,
        insecure=False,
        timeout=_ASK_SECONDS,
        tls_certificate=None,
        tls_key=None,
        tls_authority=None,
    )
    try:
        status = asyncio.run(client_of(arguments).status())
    except UnanimityError as error:
        yield bad("quorum", str(error), "start the nodes; see docs/operate/operations.md")
        return
    yield from _quorum(status)


def _quorum(status: dict[str, Any]) -> Iterator[Finding]:
    voters = [one for one in status["members"] if one["role"] == "voter"]
    if status["trouble"] is not None:
        yield bad("quorum", str(status["trouble"]), "see to the nodes that are named")
    elif status["leader_id"] is None:
        yield bad("quorum", f"{status['node_id']} knows no leader", "start a majority of the nodes")
    else:
        what = f"{status['leader_id']} leads {len(voters)} nodes that vote"
        yield ok("quorum", f"{what}, asked at {status['node_id']}")
    if len(voters) % 2 == 0 and voters:
        what = f"{len(voters)} nodes vote: one more than is of use"
        yield note("quorum", what, "three or five nodes outlive one or two")
    behind = [one for one in status["members"] if (one["lag"] or 0) > 1_000]
    for one in behind:
        what = f"{one['id']} is {one['lag']} entries behind"
        yield warning("quorum", what, "see to that node: its disk, its network, whether it runs")


def _secret(file: Path) -> Iterator[Finding]:
    """Who reads the secret can say what he likes to the nodes."""
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        what = f"others may read the cluster's secret in {file} (mode {mode:o})"
        yield bad("secret", what, f"chmod 600 {file}, and give the nodes a new secret")


def _node_folder(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield note("node", f"there is no folder {folder} yet", "the node makes it when it starts")
        return
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        what = f"others may look into {folder} (mode {mode:o})"
        yield warning("node", what, f"chmod 700 {folder}")
    yield from room_findings("node", folder)
