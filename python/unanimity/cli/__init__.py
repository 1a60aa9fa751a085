"""The command line: `unanimity`, also `python -m unanimity`.

This file is the last resort for errors; the arguments are `parser`, and each verb lives in a module
of its own and is imported when it is asked for. Exit codes: 0 fine, 1 the thing asked about is bad
or missing, 2 usage, 130 interrupted. Invariant: an error is one line on stderr that says what to
do, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from .output import UsageError
from .parser import build_parser

__all__ = ["main"]

# The module of each verb; its function has the verb's name.
_VERBS = {
    "demo": "demo",
    "status": "journal",
    "list": "journal",
    "show": "journal",
    "stuck": "stuck",
    "top": "top",
    "doctor": "doctor",
    "resolve": "journal",
    "migrate": "journal",
    "gc": "gc",
    "export": "export",
    "locks": "locks",
    "deadlocks": "locks",
    "dead-letters": "dead_letters",
    "redrive": "dead_letters",
    "events": "events",
    "recover": "recover",
    "config": "config",
    "raft": "raft",
    "node": "node",
    "bench": "bench",
    "completion": "completion",
    "version": "journal",
}
# Where the library finds a journal by its environment too.
_VARIABLES = (
    "UNANIMITY_JOURNAL",
    "UNANIMITY_DATABASE_CONNECTION_STRING",
    "UNANIMITY_DATABASE_CONNECTION_STRING_FILE",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        arguments = build_parser().parse_args(argv)
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
    except UsageError as error:
        print(f"unanimity: {error}", file=sys.stderr)
        return 2
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
        if any(os.environ.get(name) for name in _VARIABLES):
            import_module(f"{__name__}.config").take_environment(arguments)


def _one_line(error: Exception) -> str:
    from .._display import plain
    from .._exceptions import UnanimityError

    message = plain(str(error)) or type(error).__name__
    if isinstance(error, (UnanimityError, OSError, ImportError)):
        return message
    return f"{type(error).__name__}: {message}; this is a mistake of unanimity, please report it"
