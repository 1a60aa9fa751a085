"""The command line: `unanimity`, also `python -m unanimity`.

This file is the parser and the last resort for errors; each verb lives in a module of its own and
is imported when it is asked for. Exit codes: 0 fine, 1 the thing asked about is bad or missing,
2 usage. Invariant: an error is one line on stderr that says what to do, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ["main"]

# The module of each verb; its function has the verb's name.
_VERBS = {
    "demo": "demo",
    "status": "journal",
    "list": "journal",
    "show": "journal",
    "resolve": "journal",
    "migrate": "journal",
    "locks": "locks",
    "deadlocks": "locks",
    "dead-letters": "dead_letters",
    "redrive": "dead_letters",
    "events": "events",
    "recover": "recover",
    "config": "config",
    "raft": "raft",
    "node": "node",
    "version": "journal",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        _find_journal(arguments)
        module = import_module(f"{__name__}.{_VERBS[arguments.verb]}")
        verb: Callable[[argparse.Namespace], int] = getattr(
            module, f"{arguments.verb.replace('-', '_')}_verb"
        )
        code = verb(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read has gone, as `head` does; a second failure at exit would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("unanimity: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"unanimity: {_one_line(error)}", file=sys.stderr)
        return 1


def _find_journal(arguments: argparse.Namespace) -> None:
    """Fill in what the verb was not told: from --config, which costs an import, or the default."""
    if getattr(arguments, "config", None) is not None:
        import_module(f"{__name__}.config").take_config(arguments)
        return
    arguments.settings = None
    if getattr(arguments, "journal", "") is None:
        arguments.journal = "unanimity.db"


def _one_line(error: Exception) -> str:
    from .._display import plain
    from .._exceptions import UnanimityError

    message = plain(str(error)) or type(error).__name__
    if isinstance(error, (UnanimityError, OSError, ImportError)):
        return message
    return f"{type(error).__name__}: {message}; this is a mistake of unanimity, please report it"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unanimity", description="Several stores change as one: look at it, mend it, try it."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    _add_demo(_verb(verbs, "demo", "store a folder's documents in three stores, and be killed"))
    _verb(verbs, "status", "how many coordinations stand where; 1 if one needs an operator")
    _add_list(_verb(verbs, "list", "list coordinations, the latest first"))
    show = _verb(verbs, "show", "everything about one coordination")
    show.add_argument("id", metavar="ID", help="its coordination id")
    locks = _verb(verbs, "locks", "who holds what, and who waits for it")
    locks.add_argument("resource", metavar="RESOURCE", nargs="?", help="only this resource")
    _add_manager(locks)
    deadlocks = _verb(verbs, "deadlocks", "who waits for whom; 1 if some wait for each other")
    _add_manager(deadlocks)
    deadlocks.add_argument("--dot", action="store_true", help="print it for Graphviz")
    deadlocks.add_argument("--svg", metavar="FILE", help="draw it into this file")
    _verb(verbs, "dead-letters", "steps whose tries are spent; 1 if there are any")
    redrive = _verb(verbs, "redrive", "have a parked step tried again")
    redrive.add_argument("operation", metavar="OPERATION_ID", help="the operation's id")
    redrive.add_argument("--coordination", metavar="ID", help="where several have that operation")
    _add_events(_verb(verbs, "events", "the events of event sourcing"))
    _add_recover(_verb(verbs, "recover", "finish what a process left behind"))
    _add_resolve(_verb(verbs, "resolve", "decide as an operator what cannot be decided otherwise"))
    _verb(verbs, "migrate", "bring the journal's tables to this version")
    _add_config(verbs)
    _add_raft(verbs)
    _add_node(verbs)
    _verb(verbs, "version", "this version")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument(
        "--journal",
        metavar="PATH",
        help="the journal's file, or postgresql://... (default: unanimity.db)",
    )
    verb.add_argument(
        "--config", metavar="FILE", help="find the journal and servers by this configuration"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    return verb


def _add_config(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "check a configuration: 1 if something is wrong; or show what it comes to"
    verb = verbs.add_parser("config", help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument("what", choices=("check", "show"))
    verb.add_argument("file", metavar="FILE", help="the YAML file")
    verb.add_argument("--origin", action="store_true", help="show where each value is from")
    verb.add_argument("--json", action="store_true", help="print one JSON document")


def _add_raft(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "a cluster's status (1 if it has no majority or no leader), and changes of its members"
    verb = verbs.add_parser("raft", help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument("what", choices=("status", "add-node", "remove-node", "transfer"))
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
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    verb.set_defaults(journal="")


def _add_node(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "run one node of a cluster until it is told to end (SIGTERM, Ctrl-C)"
    verb = verbs.add_parser("node", help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument("file", metavar="FILE", help="the YAML configuration, with its node_id")
    verb.add_argument("--json", action="store_true", help="print the line as JSON")


def _add_demo(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", metavar="FOLDER", nargs="?", help="documents (default: our own)")
    verb.add_argument("--into", metavar="PATH", help="keep the stores here, in an empty folder")
    verb.add_argument("--limit", type=_count, default=2000, help="at most so many documents")
    verb.add_argument("--width", type=_count, default=32, help="so many at a time")


def _add_list(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--state", action="append", help="only this state; may be repeated")
    verb.add_argument("--type", help="only this coordination type")
    verb.add_argument("--store", help="only those in which this store takes part")
    verb.add_argument("--since", metavar="TIME", help="only those that began at or after it")
    verb.add_argument("--limit", type=_count, default=100, help="at most so many")


def _add_events(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("what", choices=("tail",), help="tail: the latest, in order")
    verb.add_argument("--stream", metavar="ID", help="only this stream")
    verb.add_argument("--limit", type=_count, default=20, help="at most so many (default: 20)")
    verb.add_argument("--follow", action="store_true", help="go on with those to come")


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


def _add_recover(verb: argparse.ArgumentParser) -> None:
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


def _add_resolve(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("id", metavar="ID", help="its coordination id")
    verb.add_argument("outcome", choices=("commit", "abort"))
    verb.add_argument("--reason", required=True, help="why, for the journal")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a whole number from 1")
    return number
