"""The verbs for steps whose tries are spent: dead-letters, redrive.

They open no store: a step that is redriven here is tried again by the next service that opens the
journal. Invariant: what a live process drives is left to it.
"""

from __future__ import annotations

from argparse import Namespace

from .._display import moment, text_table
from .._exceptions import InvalidRequest
from .._steps import DeadLetter
from .journal import reading
from .output import print_json, say

_HEADERS = ("operation", "coordination", "store", "type", "work", "tries", "since", "message")


def dead_letters_verb(arguments: Namespace) -> int:
    """List the steps that wait for an operator; 1 if there are any."""
    with reading(arguments.journal) as reader:
        letters = [DeadLetter.from_engine(row) for row in reader.dead_letters()]
    if arguments.json:
        print_json(letters)
    elif letters:
        say(text_table(_HEADERS, [_row(letter) for letter in letters], None))
    else:
        say("no step is parked")
    return 1 if letters else 0


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.operation_id,
        letter.coordination_id,
        letter.store,
        letter.operation_type,
        letter.work,
        letter.attempts,
        moment(letter.parked_at),
        letter.error_message,
    )


def redrive_verb(arguments: Namespace) -> int:
    """Have a parked step tried again by the next service that opens the journal."""
    with reading(arguments.journal) as reader:
        redriven = reader.redrive(arguments.operation, arguments.coordination)
    if not redriven:
        raise InvalidRequest(
            f"no parked step has the operation id {arguments.operation}; "
            "`unanimity dead-letters` lists them"
        )
    if arguments.json:
        print_json({"operation_id": arguments.operation, "redriven": True})
    else:
        print(f"{arguments.operation} is tried again by the next service that opens the journal")
    return 0
