"""The duties that outlive a process: a real child makes the store, is killed by SIGKILL, and the
store is opened again here.

Not a simulation. A store that says `is_volatile` is not asked for these. Invariants: the child is
killed by its own id; what it had not told before its death is taken for open, never for done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from .._stores import OperationRequest
from ._asked import Call
from ._duties import Bench, Broken, Duty, NotShown, expect
from ._steps import compensated, executed

ROUNDS = 4
TRANSACTIONS = 6
_CHILD_SECONDS = 60.0

Script = list[tuple[str, Any]]


@dataclass
class Told:
    """What a child said before it was killed."""

    lines: list[dict[str, Any]]

    def begun(self, number: int) -> bool:
        """Whether the call of this number had begun."""
        return any(line.get("begun") == number for line in self.lines)

    def answer(self, number: int) -> Any:
        """What a call answered; None where it had not."""
        found = (line["answer"] for line in self.lines if line.get("ended") == number)
        return next(found, None)


async def killed(bench: Bench, script: Script, lines: int | None = None) -> Told:
    """Run a script in a child and kill it: when all is done, or when it has told so many lines.

    The store is closed here meanwhile, and open again behind it.
    """
    order = {
        "path": sys.path,
        "make": bench.maker_name,
        "arguments": bench.arguments,
        "seconds": bench.seconds,
        "script": script,
    }
    try:
        text = json.dumps(order).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise NotShown(f"the operations cannot be sent to a child as JSON: {error}") from None
    await bench.close()
    try:
        told = await _run(text, lines)
    finally:
        await bench.open()
    _remember(bench, script, told)
    return Told(told)


async def _run(order: bytes, lines: int | None) -> list[dict[str, Any]]:
    with tempfile.TemporaryFile() as said:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unanimity.testing._child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            limit=1 << 24,
        )
        told = None
        try:
            told = await asyncio.wait_for(_listen(child, order, lines), _CHILD_SECONDS)
        except asyncio.TimeoutError:
            raise Broken(f"the child process was not done in {_CHILD_SECONDS:g} s") from None
        finally:
            if told is None:
                child.kill()
            await child.communicate()
        if not told:
            said.seek(0)
            words = said.read().decode(errors="replace")[-1000:]
            raise Broken(f"the child process could not make the store: {words}")
    return told


async def _listen(
    child: asyncio.subprocess.Process, order: bytes, lines: int | None
) -> list[dict[str, Any]]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(order)
    told: list[dict[str, Any]] = []
    while line := await child.stdout.readline():
        told.append(json.loads(line))
        if "all" in told[-1] or len(told) == lines:
            # Once: the second kill of a dead process would take its end from whoever waits for it.
            child.kill()
            break
    # What it managed to say before it died counts; half a line does not.
    rest = await child.stdout.read()
    told += [json.loads(line) for line in rest.split(b"\n")[:-1]]
    return told


def _remember(bench: Bench, script: Script, told: list[dict[str, Any]]) -> None:
    ended = {line["ended"] for line in told if "ended" in line}
    for line in told:
        if "ended" in line:
            question, _, answer = str(line["history"]).rpartition(" -> ")
            bench.asked.history.append(
                Call(about(script, line["ended"]), f"in a child: {question}", answer)
            )
        elif line.get("begun") is not None and line["begun"] not in ended:
            what, number = script[line["begun"]][0], line["begun"]
            bench.asked.history.append(
                Call(about(script, number), f"in a child: {what}", "killed before an answer")
            )
    bench.asked.history.append(Call("", "the child is killed, the store opened anew", "open"))


def about(script: Script, number: int) -> str:
    """The transaction that a call of a script is about."""
    what, arguments = script[number]
    if what in ("execute", "compensate"):
        return str(arguments["transaction_id"])
    return str(arguments if what == "list" else arguments[0])


async def prepared_in_child(bench: Bench) -> tuple[str, str]:
    """Have a child prepare, and kill it once it has voted; the transaction and its key."""
    transaction, key = bench.transaction(), bench.key()
    script: Script = [("prepare", [transaction, bench.put(key, "one")]), ("list", transaction)]
    told = await killed(bench, script)
    vote = told.answer(0)
    expect(vote == "COMMIT", f"the vote for one good operation is {vote}", transaction)
    if told.answer(1):
        words = "it was named as prepared before the kill, and is not named after it"
        expect(await bench.is_listed(transaction) is True, words, transaction)
    await bench.shows(key, None, "it was prepared before the kill", transaction)
    return transaction, key


async def commit_after_kill(bench: Bench) -> None:
    """A vote COMMIT is a promise: the next process can commit."""
    transaction, key = await prepared_in_child(bench)
    await bench.ended("commit", transaction)
    words = "it was voted COMMIT before the kill and committed after it"
    await bench.shows(key, "one", words, transaction)
    await bench.ended("commit", transaction)
    await bench.unlisted(transaction, "it was committed")


async def abort_after_kill(bench: Bench) -> None:
    """The next process can abort, and the key is free."""
    transaction, key = await prepared_in_child(bench)
    await bench.ended("abort", transaction)
    await bench.shows(key, None, "it was aborted after the kill", transaction)
    await bench.unlisted(transaction, "it was aborted")
    await bench.frees(key, transaction)


async def committed_stays(bench: Bench) -> None:
    """What was acknowledged is there, and the repeated commit does nothing more."""
    transaction, key = bench.transaction(), bench.key()
    script: Script = [("prepare", [transaction, bench.put(key, "one")]), ("commit", [transaction])]
    told = await killed(bench, script)
    words = f"commit is answered {told.answer(1)}, not SUCCESS"
    expect(told.answer(1) == "SUCCESS", words, transaction)
    await bench.shows(key, "one", "its commit was acknowledged before the kill", transaction)
    after = await bench.committed(key, "two")
    await bench.ended("commit", transaction)
    words = "a commit that was repeated after the kill has done it twice"
    await bench.shows(key, "two", words, transaction, after)


async def kept_by_close(bench: Bench) -> None:
    """Close is no abort."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    await bench.close()
    await bench.open()
    await bench.ended("commit", transaction)
    words = "it was prepared, the store closed and opened, and then committed"
    await bench.shows(key, "one", words, transaction)


async def kills_anywhere(bench: Bench) -> None:
    """Kills at random moments of a busy child: every transaction is whole, or not there."""
    for _ in range(ROUNDS):
        work = [(bench.transaction(), bench.key(), bench.key()) for _ in range(TRANSACTIONS)]
        script: Script = []
        for transaction, one, two in work:
            operations = [bench.put(one, "one"), bench.put(two, "two")]
            script += [("prepare", [transaction, *operations]), ("commit", [transaction])]
        # Two lines a call; the child runs on until the kill arrives.
        told = await killed(bench, script, bench.random.randint(1, 4 * TRANSACTIONS - 1))
        for number, (transaction, one, two) in enumerate(work):
            if not told.begun(2 * number):
                break
            # A commit that began was decided; of what did not begin, nobody was told.
            is_decided = told.begun(2 * number + 1) and told.answer(2 * number) == "COMMIT"
            await bench.ended("commit" if is_decided else "abort", transaction)
            values = ("one", "two") if is_decided else (None, None)
            why = f"killed, then {'committed' if is_decided else 'aborted'}"
            await bench.shows(one, values[0], why, transaction, two)
            await bench.shows(two, values[1], why, transaction, one)
            await bench.unlisted(transaction, why)


async def step_stays(bench: Bench) -> None:
    """A step that was answered is there, done once, and can be undone by the next process."""
    key = bench.key()
    request, other = bench.step(key, "one"), bench.step(key, "two")
    told = await killed(bench, [("execute", vars(request))])
    answer = told.answer(0)
    words = f"execute is answered {answer}, not SUCCESS"
    expect(answer is not None and answer["status"] == "SUCCESS", words, request.transaction_id)
    await bench.shows(key, "one", "it was executed before the kill", request.transaction_id)
    await executed(bench, other)
    again = await executed(bench, OperationRequest(**{**vars(request), "attempt": 2}))
    about = (request.transaction_id, other.transaction_id)
    await bench.shows(key, "two", "asked again after the kill it was done twice", *about)
    words = f"after the kill it gives {again.result!r}, and gave {answer['result']!r} before"
    expect(again.result == answer["result"], words, *about)
    await compensated(bench, request, again.result)
    await bench.shows(key, None, "it was undone after the kill", *about)


_STEPS = ("execute_operation", "compensate_operation")

DUTIES = (
    Duty(
        "close-keeps",
        "what is prepared stays prepared when the store is closed",
        kept_by_close,
        is_durable=True,
    ),
    Duty(
        "kill-then-commit",
        "a vote COMMIT survives a kill: the next process commits it",
        commit_after_kill,
        is_durable=True,
        is_killing=True,
    ),
    Duty(
        "kill-then-abort",
        "what a killed process prepared can be aborted by the next",
        abort_after_kill,
        is_durable=True,
        is_killing=True,
    ),
    Duty(
        "kill-after-commit",
        "an acknowledged commit survives a kill, and stays one commit",
        committed_stays,
        is_durable=True,
        is_killing=True,
    ),
    Duty(
        "kill-anywhere",
        "after a kill at any moment every transaction is whole or not there",
        kills_anywhere,
        is_durable=True,
        is_killing=True,
    ),
    Duty(
        "kill-after-step",
        "an answered operation survives a kill, and stays one operation",
        step_stays,
        _STEPS,
        is_durable=True,
        is_killing=True,
    ),
)
