"""The barrier in a user's own transaction, over real sqlite3, psycopg and asyncpg."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from postgres_cluster import PostgresCluster
from unanimity import OperationRequest, Permanent
from unanimity.barrier import AlreadyCompensated, Work, barrier
from unanimity.stores import PostgresStore, SqliteStore


def asked(transaction_id: str = "t", operation_id: str = "t:0") -> OperationRequest:
    return OperationRequest(transaction_id, operation_id, {}, 1, {}, 5.0)


# --- sqlite3 -----------------------------------------------------------------------------------


class Account:
    """A balance in a SQLite file, changed behind the barrier."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.connect() as connection:
            connection.execute("CREATE TABLE account (balance INT)")
            connection.execute("INSERT INTO account VALUES (100)")

    def connect(self, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(self.path, timeout=30, **more)
        return connection

    def add(self, amount: int, work: Work = "execute", **names: str) -> tuple[bool, Any]:
        connection = self.connect()
        try:
            with connection, barrier(connection, asked(**names), work) as first:
                if first:
                    statement = "UPDATE account SET balance = balance + ? RETURNING balance"
                    first.result = {"balance": connection.execute(statement, (amount,)).fetchone()}
            return bool(first), first.result
        finally:
            connection.close()

    @property
    def balance(self) -> int:
        connection = self.connect()
        try:
            balance: int = connection.execute("SELECT balance FROM account").fetchone()[0]
            return balance
        finally:
            connection.close()


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path / "account.db")


def test_work_that_is_asked_twice_is_done_once_and_gives_the_first_result(account: Account) -> None:
    assert account.add(5) == (True, {"balance": [105]})
    assert account.add(5) == (False, {"balance": [105]})
    assert account.add(-5, "compensate") == (True, {"balance": [100]})
    assert account.add(-5, "compensate") == (False, {"balance": [100]})
    with pytest.raises(AlreadyCompensated, match="already compensated"):
        account.add(5)
    assert account.balance == 100
    assert account.add(7, operation_id="t:1") == (True, {"balance": [107]})
    assert account.add(7, transaction_id="u") == (True, {"balance": [114]})


def test_what_was_never_done_is_not_undone_and_is_refused_for_good_afterwards(
    account: Account,
) -> None:
    for _ in range(2):
        assert account.add(-5, "compensate") == (False, None)
    with pytest.raises(AlreadyCompensated) as caught:
        account.add(5)
    assert isinstance(caught.value, Permanent)
    assert caught.value.code == "operation.already_compensated"
    assert account.balance == 100


def test_what_fails_inside_leaves_no_row_and_may_come_again(account: Account) -> None:
    connection = account.connect()
    with (
        pytest.raises(sqlite3.OperationalError),
        connection,
        barrier(connection, asked()) as first,
    ):
        connection.execute("UPDATE account SET balance = 0")
        assert first
        connection.execute("UPDATE nowhere SET a = 1")
    connection.close()
    assert account.balance == 100
    assert account.add(5) == (True, {"balance": [105]})


def test_many_threads_that_ask_for_one_operation_do_it_once(account: Account) -> None:
    async def scenario() -> list[tuple[bool, Any]]:
        return await asyncio.gather(*(asyncio.to_thread(account.add, 5) for _ in range(8)))

    answers = asyncio.run(scenario())
    assert sorted(is_first for is_first, _ in answers) == [False] * 7 + [True]
    assert all(result == {"balance": [105]} for _, result in answers)
    assert account.balance == 105


def test_without_a_transaction_it_says_so(account: Account) -> None:
    connection = account.connect(isolation_level=None)
    with pytest.raises(RuntimeError, match="no transaction is open"), barrier(connection, asked()):
        pass
    connection.execute("BEGIN")
    connection.row_factory = sqlite3.Row
    with barrier(connection.cursor(), asked()) as first:
        assert first and first.result is None
    connection.execute("COMMIT")
    connection.execute("BEGIN")
    with barrier(connection, asked()) as again:
        assert not again and again.result is None
        with pytest.raises(RuntimeError, match="only `if first:`"):
            again.result = 1
    connection.close()


def test_a_commit_inside_the_barrier_is_found_when_the_row_went_with_a_rollback(
    account: Account,
) -> None:
    connection = account.connect()
    with (
        pytest.raises(Exception, match="the barrier's row is gone"),
        barrier(connection, asked()) as first,
    ):
        first.result = 1
        connection.rollback()
    connection.close()


def test_results_that_json_cannot_say_or_that_are_too_long_are_refused(account: Account) -> None:
    connection = account.connect()
    with barrier(connection, asked()) as first:
        with pytest.raises(TypeError):
            first.result = object()
        with pytest.raises(ValueError, match="1048576 are the most"):
            first.result = "x" * (1 << 20)
        first.result = ["é", None, 1.5]
    with barrier(connection, asked()) as again:
        assert again.result == ["é", None, 1.5]
    connection.close()


def test_wrong_words_and_wrong_connections_are_refused(account: Account) -> None:
    connection = account.connect()
    with pytest.raises(ValueError, match="'undo'"):
        barrier(connection, asked(), "undo")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"builtins\.str"):
        barrier("account.db", asked())

    async def scenario() -> None:
        async with barrier(connection, asked()):
            pass

    with pytest.raises(TypeError, match=r"needs 'with barrier\(...\)', not 'async with'"):
        asyncio.run(scenario())
    connection.close()


def test_two_services_with_the_same_ids_are_kept_apart_by_a_scope(account: Account) -> None:
    connection = account.connect()
    for scope in ("orders", "billing"):
        with connection, barrier(connection, asked(), scope=scope) as first:
            assert first
    connection.close()


def test_rows_older_than_a_month_go_now_and_then(account: Account) -> None:
    for name, days in (("old", 31), ("young", 29)):
        account.add(1, transaction_id=name)
        with account.connect() as connection:
            connection.execute(
                "UPDATE unanimity_barrier SET recorded_at = "
                "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', ?) WHERE coordination_id = ?",
                (f"-{days} days", name),
            )
    connection = account.connect()
    for number in range(256):
        with barrier(connection, asked(f"n{number}")):
            pass
    query = "SELECT coordination_id FROM unanimity_barrier WHERE coordination_id IN ('old','young')"
    assert connection.execute(query).fetchall() == [("young",)]
    connection.close()


def test_the_table_in_sqlite_is_the_native_stores_own(account: Account, tmp_path: Path) -> None:
    account.add(1)
    native = tmp_path / "native.db"

    async def scenario() -> None:
        store = SqliteStore(native)
        await store.list_prepared_transactions()
        await store.close()

    asyncio.run(scenario())
    tables = []
    for path in (account.path, native):
        connection = sqlite3.connect(path)
        query = "SELECT sql FROM sqlite_schema WHERE name = 'unanimity_barrier'"
        (text,) = connection.execute(query).fetchone()
        tables.append(" ".join(text.split()))
        connection.close()
    assert tables[0] == tables[1]


# --- PostgreSQL --------------------------------------------------------------------------------

Open = Callable[[], AbstractAsyncContextManager[Any]]


class Bank:
    """The same in PostgreSQL, over one of the async drivers."""

    def __init__(self, dsn: str, driver: str) -> None:
        self.dsn = dsn
        self.driver = driver

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        if self.driver == "asyncpg":
            connection: Any = await asyncpg.connect(self.dsn)
        else:
            connection = await psycopg.AsyncConnection.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def run(self, connection: Any, statement: str) -> None:
        await connection.execute(statement)

    async def add(self, amount: int, work: Work = "execute", **names: str) -> tuple[bool, Any]:
        async with self.connected() as connection, connection.transaction():
            async with barrier(connection, asked(**names), work) as first:
                if first:
                    await connection.execute(f"UPDATE account SET balance = balance + {amount}")
                    first.result = {"added": amount}
            return bool(first), first.result


@pytest.fixture(params=["asyncpg", "psycopg"])
def bank(postgres: PostgresCluster, request: pytest.FixtureRequest) -> Iterator[Bank]:
    dsn = postgres.dsn(postgres.create_database())
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE account (balance INT)")
        connection.execute("INSERT INTO account VALUES (100)")
    yield Bank(dsn, request.param)


def balance(bank: Bank) -> int:
    with psycopg.connect(bank.dsn) as connection:
        row = connection.execute("SELECT balance FROM account").fetchone()
    assert row is not None
    found: int = row[0]
    return found


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def scenario() -> Any:
        return await work()

    return asyncio.run(scenario())


def test_in_postgresql_work_is_done_once_and_undone_once(bank: Bank) -> None:
    async def scenario() -> None:
        assert await bank.add(5) == (True, {"added": 5})
        assert await bank.add(5) == (False, {"added": 5})
        assert await bank.add(-5, "compensate") == (True, {"added": -5})
        assert await bank.add(-5, "compensate") == (False, {"added": -5})
        with pytest.raises(AlreadyCompensated):
            await bank.add(5)
        for _ in range(2):
            assert await bank.add(-5, "compensate", transaction_id="u") == (False, None)
        with pytest.raises(AlreadyCompensated):
            await bank.add(5, transaction_id="u")

    run(scenario)
    assert balance(bank) == 100


def test_in_postgresql_many_that_come_at_once_do_it_once_and_make_the_table_once(
    bank: Bank,
) -> None:
    async def scenario() -> list[tuple[bool, Any]]:
        return await asyncio.gather(*(bank.add(5) for _ in range(6)))

    answers = run(scenario)
    assert sorted(is_first for is_first, _ in answers) == [False] * 5 + [True]
    assert all(result == {"added": 5} for _, result in answers)
    assert balance(bank) == 105


def test_in_postgresql_what_fails_inside_leaves_no_row(bank: Bank) -> None:
    async def scenario() -> None:
        with pytest.raises((asyncpg.PostgresError, psycopg.Error)):
            async with (
                bank.connected() as connection,
                connection.transaction(),
                barrier(connection, asked()),
            ):
                await connection.execute("UPDATE nowhere SET a = 1")
        assert await bank.add(5) == (True, {"added": 5})

    run(scenario)


def test_in_postgresql_it_wants_a_transaction_and_async_with(bank: Bank) -> None:
    async def scenario() -> None:
        async with bank.connected() as connection:
            if bank.driver == "psycopg":
                await connection.set_autocommit(True)
            with pytest.raises(RuntimeError, match="no transaction is open"):
                async with barrier(connection, asked()):
                    pass
            with pytest.raises(TypeError, match="needs 'async with"), barrier(connection, asked()):
                pass

    run(scenario)


def test_a_plain_connection_of_psycopg_serves_too(bank: Bank) -> None:
    with psycopg.connect(bank.dsn, row_factory=psycopg.rows.dict_row) as connection:
        for is_first in (True, False):
            with connection.cursor() as cursor, barrier(cursor, asked()) as first:
                assert bool(first) is is_first
                if first:
                    first.result = [1]
            assert first.result == [1]


def test_in_postgresql_rows_older_than_a_month_go_now_and_then(bank: Bank) -> None:
    with psycopg.connect(bank.dsn) as connection:
        for name, days in (("old", 31), ("young", 29)):
            with barrier(connection, asked(name)):
                pass
            connection.execute(
                f"UPDATE unanimity_barrier SET recorded_at = now() - interval '{days} days' "
                f"WHERE coordination_id = '{name}'"
            )
        for number in range(256):
            with barrier(connection, asked(f"n{number}")):
                pass
        query = "SELECT coordination_id FROM unanimity_barrier WHERE coordination_id !~ '^n'"
        assert connection.execute(query).fetchall() == [("young",)]


def test_the_table_in_postgresql_is_the_native_stores_own(
    bank: Bank, postgres: PostgresCluster
) -> None:
    native = postgres.dsn(postgres.create_database())

    async def scenario() -> None:
        await bank.add(1)
        store = PostgresStore(native)
        await store.list_prepared_transactions()
        await store.close()

    run(scenario)
    queries = (
        "SELECT column_name, data_type, is_nullable, collation_name, column_default "
        "FROM information_schema.columns WHERE table_name = 'unanimity_barrier' ORDER BY 1",
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'unanimity_barrier' ORDER BY 1",
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'unanimity_barrier'::regclass ORDER BY 1",
    )
    found = []
    for dsn in (bank.dsn, native):
        with psycopg.connect(dsn) as connection:
            found.append([connection.execute(query).fetchall() for query in queries])
    assert found[0] == found[1]
