"""cli.md is true: each verb has its section, its example, and a table of its arguments.

To write a table anew, print `table_of(verb)`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from unanimity.cli.parser import build_parser

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `unanimity ([\w-]+)`\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S))
# Said once for all, at the top of the page.
COMMON = ("--help", "--json", "--journal", "--config")


def parsers() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no verbs")


def table_of(verb: str) -> list[str]:
    """The rows of a verb's table, as its help says them."""
    parser, rows = parsers()[verb], []
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        names = [name for name in action.option_strings if name.startswith("--")]
        if names and names[0] in COMMON and (verb, names[0]) != ("raft", "--config"):
            continue
        choices = "|".join(map(str, action.choices or ()))
        value = str(action.metavar or choices or action.dest.upper())
        shown = value if not names else f"{names[0]} {value}" if action.nargs != 0 else names[0]
        about = parser._get_formatter()._expand_help(action) if action.help else ""
        cells = (f"`{shown}`", about)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells).rstrip() + " |")
    return rows


def test_the_page_has_every_verb_and_no_other() -> None:
    assert list(SECTIONS) == list(parsers())


@pytest.mark.parametrize("verb", parsers())
def test_a_section_says_what_its_parser_says(verb: str) -> None:
    section, epilog = SECTIONS[verb], str(parsers()[verb].epilog)
    assert epilog.partition("\n  ")[2] in section, "the example of its help is there"
    shown = [line for line in section.splitlines() if line.startswith("| `")]
    assert shown == table_of(verb), "\n" + "\n".join(table_of(verb))


def test_only_arguments_that_exist_are_spoken_of() -> None:
    actions = [action for parser in parsers().values() for action in parser._actions]
    every = {name for action in actions for name in action.option_strings}
    for verb, section in SECTIONS.items():
        for command in re.findall(r"`unanimity ([\w-]+)", section):
            assert command in parsers(), command
        for option in re.findall(r"`(--[a-z-]+)", section):
            assert option in every, (verb, option)
