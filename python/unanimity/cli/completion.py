"""`unanimity completion`: the script by which bash, zsh or fish completes the command's words.

It is made of the parser, so that it knows every verb and every option. Invariant: completing runs
nothing of ours; what it offers is in the script.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from .._types import CoordinationType, TransactionState
from .output import print_json
from .parser import build_parser

_STATES = [
    "initiated",
    "preparing",
    "prepared",
    "committing",
    "committed",
    "aborting",
    "aborted",
    "failed",
]
_TYPES = [
    "two_phase_commit",
    "saga_orchestration",
    "saga_choreography",
    "event_sourcing",
    "eventual_consistency",
]
# What an option takes where the parser itself does not say it.
_VALUES = {
    "--state": [state.value for state in TransactionState],
    "--type": [kind.value for kind in CoordinationType],
}
_FILES = ("FILE", "PATH", "FOLDER")


@dataclass(frozen=True)
class Word:
    """An argument of a verb: its options, or none where it has a place of its own."""

    options: list[str]
    about: str
    takes_value: bool
    values: list[str]
    is_file: bool
    repeats: bool


@dataclass(frozen=True)
class Verb:
    """A verb with everything that may follow it."""

    name: str
    about: str
    words: list[Word]

    @property
    def options(self) -> list[Word]:
        """What begins with a dash."""
        return [word for word in self.words if word.options]

    @property
    def places(self) -> list[Word]:
        """What does not."""
        return [word for word in self.words if not word.options]


def completion_verb(arguments: Namespace) -> int:
    """Print the script."""
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]()
    if arguments.json:
        print_json({"shell": arguments.shell, "script": script})
    else:
        print(script, end="")
    return 0


def verbs() -> list[Verb]:
    """Everything that the parser knows, but for what it does not show."""
    subparsers = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    abouts = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return [
        Verb(name, abouts[name], list(_words(name, parser)))
        for name, parser in subparsers.choices.items()
    ]


def _words(name: str, parser: argparse.ArgumentParser) -> Iterator[Word]:
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        values = [str(value) for value in action.choices or ()]
        for option in action.option_strings:
            # Events have types of their own.
            if option in _VALUES and (name, option) != ("events", "--type"):
                values = _VALUES[option]
        yield Word(
            options=list(action.option_strings),
            about=(action.help or "").replace("%(default)g", str(action.default)),
            takes_value=action.nargs != 0,
            values=values,
            is_file=action.metavar in _FILES,
            repeats=isinstance(action, argparse._AppendAction),
        )


# ---- bash ---------------------------------------------------------------------------------------

_BASH = """# Completion of unanimity for bash: source it, or put it where bash-completion looks.
_unanimity() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words="" files=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "@VERBS@ -h --help" -- "$cur"))
        return
    fi
    case "${COMP_WORDS[1]} $prev" in
@VALUES@
    *)
        case "${COMP_WORDS[1]}" in
@WORDS@
        esac
        ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    case "$files$cur" in
    yes-*) ;;
    yes*) compopt -o filenames 2>/dev/null
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$cur")) ;;
    esac
}
complete -F _unanimity unanimity
"""


def _bash() -> str:
    values, words = [], []
    for verb in verbs():
        for word in verb.options:
            if word.takes_value:
                pattern = "|".join(f'"{verb.name} {option}"' for option in word.options)
                files = " files=yes" if word.is_file else ""
                values.append(f'    {pattern}) words="{" ".join(word.values)}"{files} ;;')
        offered = [option for word in verb.options for option in word.options]
        offered += [value for word in verb.places for value in word.values]
        files = " files=yes" if any(word.is_file for word in verb.places) else ""
        words.append(f'        {verb.name}) words="{" ".join(offered)}"{files} ;;')
    names = " ".join(verb.name for verb in verbs())
    script = _BASH.replace("@VERBS@", names)
    return script.replace("@VALUES@", "\n".join(values)).replace("@WORDS@", "\n".join(words))


# ---- zsh ----------------------------------------------------------------------------------------

_ZSH = """#compdef unanimity
# Completion of unanimity for zsh: put it into a folder of $fpath as _unanimity.
_unanimity() {
    local -a verbs
    verbs=(
@VERBS@
    )
    if (( CURRENT == 2 )); then
        _describe 'command' verbs
        return
    fi
    local verb="$words[2]"
    shift words
    (( CURRENT-- ))
    case "$verb" in
@WORDS@
    esac
}
compdef _unanimity unanimity
"""


def _zsh_text(text: str) -> str:
    """A text within quotes, for `_arguments`, which reads brackets and colons itself."""
    for special in "\\[]:":
        text = text.replace(special, "\\" + special)
    return text.replace("'", "'\\''")


def _zsh_value(word: Word) -> str:
    if word.values:
        return f":value:({' '.join(word.values)})"
    return ":file:_files" if word.is_file else ":value:"


def _zsh_words(verb: Verb) -> Iterator[str]:
    for word in verb.options:
        for option in word.options:
            repeats = "*" if word.repeats else ""
            value = _zsh_value(word) if word.takes_value else ""
            yield f"'{repeats}{option}[{_zsh_text(word.about)}]{value}'"
    for number, word in enumerate(verb.places, 1):
        yield f"'{number}{_zsh_value(word)}'"


def _zsh() -> str:
    names = [f"        '{verb.name}:{_zsh_text(verb.about)}'" for verb in verbs()]
    words = [
        f"    {verb.name}) _arguments \\\n        " + " \\\n        ".join(_zsh_words(verb)) + " ;;"
        for verb in verbs()
    ]
    return _ZSH.replace("@VERBS@", "\n".join(names)).replace("@WORDS@", "\n".join(words))


# ---- fish ---------------------------------------------------------------------------------------


def _fish() -> str:
    lines = [
        "# Completion of unanimity for fish: put it into ~/.config/fish/completions/unanimity.fish",
        "complete -c unanimity -f",
    ]
    for verb in verbs():
        about = _fish_text(verb.about)
        lines.append(f"complete -c unanimity -n __fish_use_subcommand -a {verb.name} -d {about}")
        lines += [_fish_line(verb.name, word) for word in verb.words]
    return "\n".join(line for line in lines if line) + "\n"


def _fish_line(verb: str, word: Word) -> str:
    start = f"complete -c unanimity -n '__fish_seen_subcommand_from {verb}'"
    values = f" -a '{' '.join(word.values)}'" if word.values else ""
    files = " -F" if word.is_file else ""
    if not word.options:
        return f"{start}{values}{files}" if values or files else ""
    names = "".join(
        f" -l {option[2:]}" if option.startswith("--") else f" -s {option[1:]}"
        for option in word.options
    )
    required = " -r" if word.takes_value else ""
    return f"{start}{names}{required}{values}{files} -d {_fish_text(word.about)}"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
