"""What can be said to `unanimity`: every verb with its arguments, and an example of each.

Not what a verb does: that is its own module, which is not imported here. Invariants: every verb
has `-h` with an example that can be run; `--json` is there wherever something is printed for
programs. `docs/reference/cli.md` and the completions of shells are held to this parser by tests.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

from .values import age, count, interval, seconds

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_RAFT = ("status", "add-node", "remove-node", "transfer")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of everything."""
    parser = argparse.ArgumentParser(
        prog="unanimity",
        description="Several stores change as one: look at it, mend it, try it.",
        epilog="examples:\n  unanimity demo\n  unanimity status --journal unanimity.db\n\n"
        "exit codes: 0 fine, 1 the thing asked about is bad or missing, 2 usage, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    _add_looking(verbs)
    _add_locks(verbs)
    _add_mending(verbs)
    _add_keeping(verbs)
    _add_config(verbs)
    _add_raft(verbs)
    _add_node(verbs)
    _add_trying(verbs)
    return parser


def _bare(verbs: Verbs, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """Add a verb that has no journal."""
    verb = verbs.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  unanimity {name}{' ' * bool(example)}{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    return verb


def _verb(verbs: Verbs, name: str, about: str, example: str = "") -> argparse.ArgumentParser:
    """Add a verb that is about a journal."""
    verb = _bare(verbs, name, about, example)
    verb.add_argument(
        "--journal",
        metavar="PATH",
        help="the journal's file, or postgresql://... (default: UNANIMITY_JOURNAL, unanimity.db)",
    )
    verb.add_argument(
        "--config", metavar="FILE", help="find the journal and servers by this configuration"
    )
    return verb


# ---- to look ------------------------------------------------------------------------------------


def _add_looking(verbs: Verbs) -> None:
    _verb(
        verbs,
        "status",
        "how many coordinations stand where; 1 if one needs an operator",
        "--journal unanimity.db",
    )
    listing = _verb(
        verbs, "list", "list coordinations, the latest first", "--state aborted --limit 20"
    )
    _add_filter(listing)
    listing.add_argument(
        "--limit", type=count, default=100, metavar="N", help="at most so many (default: 100)"
    )
    show = _verb(verbs, "show", "everything about one coordination", "order-4711")
    show.add_argument("id", metavar="ID", help="its coordination id")
    stuck = _verb(
        verbs,
        "stuck",
        "what is in doubt, waits or is parked, why, and the next step; 1 if there is any",
        "--after 60",
    )
    _add_after(stuck)
    stuck.add_argument(
        "--limit", type=count, default=100, metavar="N", help="at most so many (default: 100)"
    )
    _add_top(verbs)
    _add_doctor(verbs)
    _add_events(verbs)


def _add_filter(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--state", action="append", help="only this state; may be repeated")
    verb.add_argument("--type", help="only this coordination type")
    verb.add_argument("--store", help="only those in which this store takes part")
    verb.add_argument("--since", metavar="TIME", help="only those that began at or after it")
    verb.add_argument("--until", metavar="TIME", help="only those that began at or before it")


def _add_after(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--after",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="what has not moved for so long counts as waiting (default: %(default)g)",
    )


def _add_top(verbs: Verbs) -> None:
    top = _verb(
        verbs,
        "top",
        "what runs, what is stuck, and how many a second, again and again; once in a pipe",
        "--interval 1",
    )
    _add_after(top)
    top.add_argument("--once", action="store_true", help="print it once")
    top.add_argument(
        "--interval",
        type=interval,
        default=2.0,
        metavar="SECONDS",
        help="how often it is drawn (default: %(default)g)",
    )
    top.add_argument(
        "--limit", type=count, default=20, metavar="N", help="at most so many rows (default: 20)"
    )


def _add_doctor(verbs: Verbs) -> None:
    doctor = _verb(
        verbs,
        "doctor",
        "what is wrong with a journal, its servers and its stores, and the mend; 1 if bad",
        "--journal unanimity.db --store shop=sqlite:shop.db",
    )
    _add_stores(doctor)


def _add_events(verbs: Verbs) -> None:
    verb = _verb(verbs, "events", "the events of event sourcing", "tail --stream order-4711")
    verb.add_argument("what", choices=("tail",), help="tail: the latest, in order")
    verb.add_argument("--stream", metavar="ID", help="only this stream")
    verb.add_argument("--type", help="only events of this type")
    verb.add_argument(
        "--from",
        dest="position",
        type=count,
        metavar="POSITION",
        help="begin at this global position (of one stream: version), instead of at the end",
    )
    verb.add_argument(
        "--limit", type=count, default=20, metavar="N", help="at most so many (default: 20)"
    )
    verb.add_argument("--follow", action="store_true", help="go on with those to come")


def _add_locks(verbs: Verbs) -> None:
    locks = _verb(verbs, "locks", "who holds what, and who waits for it", "shop/apples")
    locks.add_argument("resource", metavar="RESOURCE", nargs="?", help="only this resource")
    _add_manager(locks)
    deadlocks = _verb(
        verbs,
        "deadlocks",
        "who waits for whom; 1 if some wait for each other",
        "--postgres postgresql://localhost/locks --svg waits.svg",
    )
    _add_manager(deadlocks)
    deadlocks.add_argument("--dot", action="store_true", help="print it for Graphviz")
    deadlocks.add_argument("--svg", metavar="FILE", help="draw it into this file")


def _add_manager(verb: argparse.ArgumentParser) -> None:
    one = verb.add_mutually_exclusive_group()
    one.add_argument("--postgres", metavar="DSN", help="ask this PostgreSQL lock manager")
    one.add_argument("--zookeeper", metavar="HOSTS", help="ask this ZooKeeper lock manager")
    verb.add_argument(
        "--root",
        metavar="PATH",
        default="/memory_os/locks",
        help="where the locks stand in ZooKeeper (default: %(default)s)",
    )


# ---- to mend ------------------------------------------------------------------------------------


def _add_mending(verbs: Verbs) -> None:
    _verb(verbs, "dead-letters", "steps whose tries are spent; 1 if there are any")
    redrive = _verb(verbs, "redrive", "have a parked step tried again", "order-4711:2")
    redrive.add_argument("operation", metavar="OPERATION_ID", help="the operation's id")
    redrive.add_argument("--coordination", metavar="ID", help="where several have that operation")
    recover = _verb(
        verbs,
        "recover",
        "finish what a process left behind",
        "--store shop=sqlite:shop.db --store blobs=files:blobs",
    )
    _add_stores(recover)
    resolve = _verb(
        verbs,
        "resolve",
        "decide as an operator what cannot be decided otherwise",
        "order-4711 commit --reason 'the bank confirmed it'",
    )
    resolve.add_argument("id", metavar="ID", help="its coordination id")
    resolve.add_argument("outcome", choices=("commit", "abort"))
    resolve.add_argument("--reason", required=True, help="why, for the journal")


def _add_stores(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--store",
        action="append",
        default=[],
        metavar="NAME=KIND:WHERE",
        help="a store: KIND is sqlite, files or postgres, WHERE its path or address; repeat it",
    )
    verb.add_argument(
        "--stores",
        metavar="MODULE:NAME",
        help="a dict of stores by name, or a function that makes one",
    )


# ---- to keep ------------------------------------------------------------------------------------


def _add_keeping(verbs: Verbs) -> None:
    _verb(verbs, "migrate", "bring the journal's tables to this version")
    gc = _verb(
        verbs,
        "gc",
        "remove finished coordinations that are old; open ones are never touched",
        "--older-than 7d --dry-run",
    )
    gc.add_argument(
        "--older-than",
        type=age,
        metavar="AGE",
        help="that ended longer ago: 30d, 12h, 45m, 90s (default: retention.finished_days)",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say how many would go")
    gc.add_argument(
        "--batch",
        type=count,
        default=500,
        metavar="N",
        help="so many at once, with others' work in between (default: %(default)s)",
    )
    gc.add_argument(
        "--shrink", action="store_true", help="then write the file anew without its free room"
    )
    export = _verb(
        verbs,
        "export",
        "the history, one coordination a line, the latest first",
        "--since 2030-01-01 --format csv",
    )
    _add_filter(export)
    export.add_argument(
        "--format", choices=("jsonl", "csv"), help="JSON lines (the default), or a table"
    )


# ---- configuration and clusters -----------------------------------------------------------------


def _add_config(verbs: Verbs) -> None:
    about = "check a configuration: 1 if something is wrong; or show what it comes to"
    verb = _bare(verbs, "config", about, "check unanimity.yaml")
    verb.add_argument("what", choices=("check", "show"))
    verb.add_argument("file", metavar="FILE", help="the YAML file")
    verb.add_argument("--origin", action="store_true", help="show where each value is from")


def _add_raft(verbs: Verbs) -> None:
    about = "a cluster's status (1 if it has no majority or no leader), and changes of its members"
    verb = _bare(verbs, "raft", about, "status --node 10.0.0.1:7800 --secret-file secret")
    verb.add_argument("what", choices=_RAFT)
    verb.add_argument(
        "subject",
        metavar="NODE",
        nargs="?",
        help="add-node: id=host:port; remove-node, transfer: its id",
    )
    verb.add_argument(
        "--node",
        action="append",
        metavar="[ID=]HOST:PORT",
        help="ask this node; repeat it, and the next one is asked where one is not reached",
    )
    verb.add_argument("--config", metavar="FILE", help="take nodes and security of this file")
    verb.add_argument("--secret-file", metavar="FILE", help="the file of the cluster's secret")
    for name in ("certificate", "key", "authority"):
        verb.add_argument(f"--tls-{name}", metavar="FILE", help=f"the file of the {name}, in PEM")
    verb.add_argument(
        "--insecure", action="store_true", help="neither secret nor TLS, beyond this machine"
    )
    verb.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="(default: %(default)g)"
    )
    verb.set_defaults(journal="")


def _add_node(verbs: Verbs) -> None:
    about = "run one node of a cluster until it is told to end (SIGTERM, Ctrl-C)"
    verb = _bare(verbs, "node", about, "/etc/unanimity/node.yaml")
    verb.add_argument("file", metavar="FILE", help="the YAML configuration, with its node_id")


# ---- to try -------------------------------------------------------------------------------------


def _without_journal(verbs: Verbs, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """Add a verb that takes the arguments of all, and has no use for them."""
    verb = _bare(verbs, name, about, example)
    for option in ("--journal", "--config"):
        verb.add_argument(option, default="", help=argparse.SUPPRESS)
    verb.set_defaults(config=None)
    return verb


def _add_trying(verbs: Verbs) -> None:
    demo = _without_journal(
        verbs,
        "demo",
        "store a folder's documents in three stores, and be killed",
        "docs --limit 50",
    )
    demo.add_argument("folder", metavar="FOLDER", nargs="?", help="documents (default: our own)")
    demo.add_argument("--into", metavar="PATH", help="keep the stores here, in an empty folder")
    demo.add_argument("--limit", type=count, default=2000, help="at most so many documents")
    demo.add_argument("--width", type=count, default=32, help="so many at a time")
    bench = _without_journal(
        verbs,
        "bench",
        "how many coordinations a second this machine and a disk of it can do",
        "--into /var/lib/shop --callers 64",
    )
    bench.add_argument(
        "--into", metavar="FOLDER", help="the journal's disk (default: that of temporary files)"
    )
    bench.add_argument(
        "--seconds", type=interval, default=2.0, help="for so long (default: %(default)g)"
    )
    bench.add_argument(
        "--callers", type=count, default=16, help="so many at a time (default: %(default)s)"
    )
    bench.add_argument(
        "--stores", choices=("memory", "files", "sqlite"), default="memory", help="two of these"
    )
    completion = _without_journal(
        verbs, "completion", "the script by which a shell completes these words", "bash"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    _without_journal(verbs, "version", "this version", "")
