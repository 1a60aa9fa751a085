"""The duties of prepare, commit, abort and list, while the process lives.

Not what survives it: that is `_kills`. Each function is one duty and the shortest history that
shows whether it is kept. Invariant: what the contract allows in two ways breaks nothing.
"""

from __future__ import annotations

import asyncio

from ._duties import Bench, Duty, NotShown, expect

AT_ONCE = 12
# What an id may have in it: all that ends a name in files, statements, addresses and formats.
_ODD = " /../a\\b'\"%s;--?#:&=\u00e9\u4e2d\U0001f600"
_ID_CHARACTERS_MAX = 128


async def commit_shows(bench: Bench) -> None:
    """Prepare, commit, read."""
    key = bench.key()
    transaction = await bench.committed(key, "one")
    await bench.shows(key, "one", "it was committed", transaction)


async def whole(bench: Bench) -> None:
    """Several operations in one transaction: all, or none."""
    for end, values in (("commit", ("one", "two")), ("abort", (None, None))):
        transaction, keys = bench.transaction(), (bench.key(), bench.key())
        operations = [bench.put(keys[0], "one"), bench.put(keys[1], "two")]
        vote = await bench.asked.prepare(transaction, *operations)
        words = f"the vote for two good operations is {vote}, not COMMIT"
        expect(vote == "COMMIT", words, transaction)
        await bench.ended(end, transaction)
        for key, value in zip(keys, values, strict=True):
            await bench.shows(key, value, f"the end was {end}", transaction, *keys)


async def any_id(bench: Bench) -> None:
    """An id is 1 to 128 characters of any kind; the longest, with odd ones in it."""
    for end in ("commit", "abort"):
        # The number in it may have one digit more than the last one had.
        length = _ID_CHARACTERS_MAX - 1 - len(bench.transaction())
        transaction, key = bench.transaction(_ODD.ljust(length, "x")), bench.key()
        await bench.prepared(transaction, key, "one")
        await bench.ended(end, transaction)
        await bench.ended(end, transaction)
        value = "one" if end == "commit" else None
        await bench.shows(key, value, f"the end was {end}", transaction)
        await bench.unlisted(transaction, "it has ended")


async def prepared_is_hidden(bench: Bench) -> None:
    """Prepare and read."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    await bench.shows(key, None, "it is prepared and not committed", transaction)


async def abort_leaves_nothing(bench: Bench) -> None:
    """Prepare, abort, read; the key is free again."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    await bench.ended("abort", transaction)
    await bench.shows(key, None, "it was aborted", transaction)
    await bench.frees(key, transaction)


async def commit_again(bench: Bench) -> None:
    """A commit that is repeated after somebody else changed the key must not overwrite that."""
    key = bench.key()
    first = await bench.committed(key, "one")
    await bench.ended("commit", first)
    second = await bench.committed(key, "two")
    await bench.ended("commit", first)
    await bench.shows(key, "two", "a commit that was repeated has done it twice", first, second)


async def abort_again(bench: Bench) -> None:
    """Abort twice."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    await bench.ended("abort", transaction)
    await bench.ended("abort", transaction)
    await bench.shows(key, None, "it was aborted", transaction)


async def abort_of_unknown(bench: Bench) -> None:
    """Abort what was never prepared."""
    await bench.ended("abort", bench.transaction())


async def commit_before_prepare(bench: Bench) -> None:
    """The answer may be SUCCESS or FAILED, but it is an answer, and nothing is prepared."""
    transaction = bench.transaction()
    status = await bench.asked.commit(transaction)
    words = "a commit of a transaction that it never saw is to be answered, SUCCESS or FAILED"
    expect(status in ("SUCCESS", "FAILED"), words, transaction)
    await bench.unlisted(transaction, "it was never prepared")


async def prepare_twice(bench: Bench) -> None:
    """The second vote may be COMMIT or ABORT; one end is enough for both, and counts once."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    vote = await bench.asked.prepare(transaction, bench.put(key, "one"))
    words = f"asked to prepare the same transaction again it votes {vote}, not COMMIT or ABORT"
    expect(vote in ("COMMIT", "ABORT"), words, transaction)
    # An abort by vote keeps nothing, and the engine aborts as well.
    await bench.ended("commit" if vote == "COMMIT" else "abort", transaction)
    value = "one" if vote == "COMMIT" else None
    await bench.shows(key, value, f"the second vote was {vote}", transaction)
    await bench.unlisted(transaction, "it has ended")


async def commit_after_abort(bench: Bench) -> None:
    """Whatever the answer, what was aborted stays away."""
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    await bench.ended("abort", transaction)
    await bench.asked.commit(transaction)
    await bench.shows(key, None, "it was aborted before it was told to commit", transaction)


async def abort_after_commit(bench: Bench) -> None:
    """Whatever the answer, what was committed stays."""
    key = bench.key()
    transaction = await bench.committed(key, "one")
    await bench.asked.abort(transaction)
    await bench.shows(key, "one", "it was committed before it was told to abort", transaction)


async def prepare_after_abort(bench: Bench) -> None:
    """Best it votes ABORT. If not, it is like any prepared one: hidden, and aborted again."""
    transaction, key = bench.transaction(), bench.key()
    await bench.ended("abort", transaction)
    vote = await bench.asked.prepare(transaction, bench.put(key, "one"))
    await bench.shows(key, None, "it was aborted before it was prepared", transaction)
    bench.note = f"it votes {vote}"
    if vote == "COMMIT":
        bench.note = "it votes COMMIT, and an abort that follows undoes it"
        await bench.ended("abort", transaction)
        await bench.shows(key, None, "it was aborted", transaction)
    await bench.unlisted(transaction, "it was aborted, before its prepare or after its vote")


async def abort_while_preparing(bench: Bench) -> None:
    """Both at once: nothing is left, at the latest after the abort that follows the vote."""
    transaction, key = bench.transaction(), bench.key()
    prepare = bench.asked.prepare(transaction, bench.put(key, "one"))
    vote, status = await asyncio.gather(prepare, bench.asked.abort(transaction))
    expect(status == "SUCCESS", f"abort is answered {status}, not SUCCESS", transaction)
    if vote == "COMMIT":
        await bench.ended("abort", transaction)
    await bench.shows(key, None, "it was aborted while it was prepared", transaction)
    await bench.unlisted(transaction, "it was aborted")
    await bench.frees(key, transaction)


async def bad_operations(bench: Bench) -> None:
    """One bad operation among good ones: ABORT with nothing kept."""
    transaction, key = bench.transaction(), bench.key()
    operations = [bench.put(key, "one"), bench.bad(bench.key())]
    vote = await bench.asked.prepare(transaction, *operations)
    words = f"the vote for an operation that cannot be done is {vote}, not ABORT"
    expect(vote == "ABORT", words, transaction)
    await bench.shows(key, None, "its vote was ABORT", transaction)
    await bench.unlisted(transaction, "its vote was ABORT, which means that nothing is kept")
    after = await bench.committed(key, "two")
    await bench.shows(key, "two", "the key is free after the vote ABORT", transaction, after)


async def late_holder(bench: Bench) -> None:
    """A store may leave fencing to others; one that looks refuses who comes late."""
    resource, key = f"{bench.asked.name}/{bench.key()}", bench.key()
    transactions = [bench.transaction(), bench.transaction()]
    votes = []
    for transaction, token in zip(transactions, (7, 6), strict=True):
        put = bench.put(key, "one")
        votes.append(await bench.asked.prepare(transaction, put, tokens={resource: token}))
        await bench.ended("abort", transaction)
    words = f"the vote for one good operation under a lock is {votes[0]}, not COMMIT"
    expect(votes[0] == "COMMIT", words, *transactions)
    if votes[1] == "COMMIT":
        raise NotShown("it does not look at fencing tokens")


async def lists_prepared(bench: Bench) -> None:
    """Named while prepared, and neither before nor after."""
    first, second = bench.transaction(), bench.transaction()
    await bench.unlisted(first, "it was not prepared yet")
    await bench.prepared(first, bench.key(), "one")
    words = "list_prepared_transactions did not answer with a list"
    named = await bench.asked.listed(first)
    expect(named is not None, words, first)
    if not named:
        await bench.ended("abort", first)
        raise NotShown("it names nothing, so that begin records are on disk before it is asked")
    expect(first in named, "what is prepared is not named by list_prepared_transactions", first)
    await bench.ended("commit", first)
    await bench.unlisted(first, "it was committed")
    await bench.prepared(second, bench.key(), "one")
    await bench.ended("abort", second)
    await bench.unlisted(second, "it was aborted")


async def many_at_once(bench: Bench) -> None:
    """Transactions on keys of their own, some aborted: each shows exactly its own end."""
    work = [(bench.transaction(), bench.key()) for _ in range(AT_ONCE)]
    doomed = set(bench.random.sample(range(AT_ONCE), AT_ONCE // 3))

    async def one(number: int) -> bool:
        transaction, key = work[number]
        vote = await bench.asked.prepare(transaction, bench.put(key, f"v{number}"))
        is_committed = vote == "COMMIT" and number not in doomed
        await bench.ended("commit" if is_committed else "abort", transaction)
        return is_committed

    ends = await asyncio.gather(*map(one, range(AT_ONCE)))
    for number, (transaction, key) in enumerate(work):
        value = f"v{number}" if ends[number] else None
        why = "it was committed beside others" if ends[number] else "it was aborted beside others"
        await bench.shows(key, value, why, transaction)
        await bench.unlisted(transaction, "it has ended")
    expect(any(ends), "of many transactions on keys of their own it could commit none")


async def same_key_at_once(bench: Bench) -> None:
    """Transactions that want one key: a vote of ABORT is fine, a torn or foreign value is not."""
    key = bench.key()
    work = [bench.transaction() for _ in range(AT_ONCE)]

    async def one(number: int) -> str | None:
        vote = await bench.asked.prepare(work[number], bench.put(key, f"v{number}"))
        await bench.ended("commit" if vote == "COMMIT" else "abort", work[number])
        return f"v{number}" if vote == "COMMIT" else None

    ends = await asyncio.gather(*map(one, range(AT_ONCE)))
    committed = [value for value in ends if value is not None]
    expect(bool(committed), "of many transactions on one key it could commit none", *work)
    found = await bench.read(key)
    words = f"{committed} were committed under {key}, and {found!r} is there"
    expect(found in committed, words, key, *work)


async def commit_at_once(bench: Bench) -> None:
    """The same commit from several sides at once: one is acknowledged, and it counts once.

    The others may say that somebody is at it, by raising, but never FAILED.
    """
    transaction, key = bench.transaction(), bench.key()
    await bench.prepared(transaction, key, "one")
    answers = await asyncio.gather(*(bench.asked.commit(transaction) for _ in range(4)))
    words = f"the same commit four times at once is answered {answers}"
    is_right = "SUCCESS" in answers and set(answers) <= {"SUCCESS", "UNKNOWN"}
    expect(is_right, words, transaction)
    await bench.ended("commit", transaction)
    await bench.shows(key, "one", "it was committed four times at once", transaction)
    after = await bench.committed(key, "two")
    await bench.shows(key, "two", "a late commit has overwritten it", transaction, after)


_LIST = ("list_prepared_transactions",)

FIRST = Duty(
    "commit",
    "what was voted COMMIT and then committed can be read",
    commit_shows,
)

DUTIES = (
    FIRST,
    Duty("hidden", "what is prepared cannot be read before its commit", prepared_is_hidden),
    Duty(
        "whole",
        "the operations of one transaction are committed together, or aborted together",
        whole,
    ),
    Duty("abort", "an abort leaves nothing, and holds nothing", abort_leaves_nothing),
    Duty("list", "exactly what is prepared and undecided is named", lists_prepared, _LIST),
    Duty("commit-again", "a repeated commit is acknowledged and does nothing more", commit_again),
    Duty("abort-again", "a repeated abort is acknowledged and does nothing more", abort_again),
    Duty("abort-unknown", "an abort of what it never saw is acknowledged", abort_of_unknown),
    Duty(
        "commit-unknown",
        "a commit of what it never saw is answered, not raised",
        commit_before_prepare,
    ),
    Duty("prepare-twice", "a transaction that is prepared twice ends once", prepare_twice),
    Duty("commit-after-abort", "what was aborted stays away", commit_after_abort),
    Duty("abort-after-commit", "what was committed stays", abort_after_commit),
    Duty(
        "prepare-after-abort",
        "a prepare that comes after its abort changes nothing",
        prepare_after_abort,
    ),
    Duty(
        "abort-while-preparing",
        "an abort that overtakes its prepare wins in the end",
        abort_while_preparing,
    ),
    Duty(
        "bad-operation",
        "an operation that cannot be done is refused by the vote ABORT, and nothing is kept",
        bad_operations,
    ),
    Duty(
        "fences",
        "who comes with the fencing token of a lock that was lost is refused",
        late_holder,
    ),
    Duty(
        "any-id",
        "a transaction's id may be any text of up to 128 characters",
        any_id,
    ),
    Duty("many-at-once", "transactions at once do not disturb each other", many_at_once),
    Duty("same-key-at-once", "of transactions that want one key none is lost", same_key_at_once),
    Duty("commit-at-once", "one commit from several sides at once counts once", commit_at_once),
)
