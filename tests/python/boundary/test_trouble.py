"""A mistake of our own is an ordinary exception, and what the engine has to say goes to logging.

The mistake is provoked at the engine's named points, by the environment, in the wheel that ships.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from boundary.programs import run
from ledger import Ledger, request
from unanimity import CommitResult, CoordinationService

Make = Callable[..., CoordinationService]

TELL = """
class Keep(logging.Handler):
    def emit(self, record):
        kept.append(record)
kept = []
logging.getLogger("unanimity").addHandler(Keep())

async def ask(service, name):
    try:
        return (await asyncio.wait_for(service.coordinate_transaction(put(name)), 60)).outcome.value
    except UnanimityError as error:
        return f"{type(error).__name__}: {error}"

async def main():
    service = CoordinationService({"left": Ledger("left"), "right": Ledger("right")})
    for name in ("a", "b", "c"):
        print(await ask(service, name))
    # What lost its answer by the mistake never gets it.
    await service.close(timeout=1)
asyncio.run(main())
for record in kept:
    print(record.levelname, record.getMessage())
"""


def test_a_panic_is_an_internal_error_now_and_later_and_recovery_finishes(tmp_path: Path) -> None:
    point = "before_ask:commit:right"
    # Whoever asks is told, and closing waits for nothing: nothing runs any more.
    closing = "    await service.close(timeout=1)"
    source = TELL.replace(
        f"    # What lost its answer by the mistake never gets it.\n{closing}",
        """
    for question in (service.get_coordination_status("a"), service.abort_coordination("a", "no")):
        try:
            print("answered", await question)
        except UnanimityError as error:
            print("asked later:", type(error).__name__)
    await asyncio.wait_for(service.close(), 20)""",
    )
    code, output, complaints = run(source, tmp_path, UNANIMITY_PANIC_AT=point)
    assert (code, complaints) == (0, "")
    assert output.count("asked later: InternalError") == 2, output
    answers = [line for line in output.splitlines() if line.startswith("InternalError: ")]
    assert len(answers) == 3, output
    assert point in answers[0] and "report it" in answers[0]
    told = [line for line in output.splitlines() if line.startswith("ERROR ")]
    assert any("a mistake of unanimity" in line and "src/crash.rs" in line for line in told), output
    assert any("stops deciding" in line for line in told), output

    code, output, complaints = run(
        """
        async def main():
            stores = {"left": Ledger("left"), "right": Ledger("right")}
            async with CoordinationService(stores) as service:
                print((await service.wait_for("a", timeout=30)).final_state.value)
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert (code, output, complaints) == (0, "committed\n", "")


def test_a_panic_where_an_answer_comes_in_breaks_no_lane(tmp_path: Path) -> None:
    source = TELL.replace("put(name)", "request(name, timeout_seconds=2)")
    code, output, complaints = run(source, tmp_path, UNANIMITY_PANIC_AT="after_ask:prepare:left")
    assert (code, complaints) == (0, "")
    first, *later = output.splitlines()[:3]
    # Its vote is lost, so its deadline decides; the others are served.
    assert first == "aborted"
    assert later == ["committed", "committed"]
    assert "a mistake of unanimity" in output


def test_unarmed_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    code, output, complaints = run(TELL, tmp_path)
    assert (code, output, complaints) == (0, "committed\n" * 3, "")


def test_the_engines_records_reach_logging_with_their_fields(
    make_service: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    right = Ledger("right")
    right.commit_answer = CommitResult("right", "FAILED", "disk on fire")

    async def scenario() -> None:
        async with make_service({"left": Ledger("left"), "right": right}) as service:
            await service.coordinate_transaction(request("t1"))
            while not caplog.records:
                await asyncio.sleep(0.005)

    handlers = list(logging.getLogger("unanimity").handlers)
    with caplog.at_level(logging.INFO, logger="unanimity.engine"):
        asyncio.run(scenario())
    told = [record for record in caplog.records if record.name == "unanimity.engine"]
    (record,) = [record for record in told if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("manual intervention required")
    fields = vars(record)
    assert "t1" in (fields.get("unanimity_id"), fields.get("unanimity_coordination"))
    assert any(
        "disk on fire" in str(value)
        for name, value in fields.items()
        if name.startswith("unanimity_")
    )
    assert fields["unanimity_target"].startswith("unanimity")
    # Nothing was printed, and whose loggers these are is the user's choice.
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("unanimity").handlers == handlers
    assert logging.getLogger("unanimity.engine").handlers == []


def test_a_user_whose_logging_raises_is_served_all_the_same(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise LookupError("a filter of the user's")

    right = Ledger("right")
    right.commit_answer = CommitResult("right", "FAILED", "disk on fire")
    broken = Broken()

    async def scenario() -> None:
        async with make_service({"left": Ledger("left"), "right": right}) as service:
            for turn in range(3):
                asked = service.coordinate_transaction(request(f"t{turn}"))
                assert not (await asyncio.wait_for(asked, 20)).success

    logger = logging.getLogger("unanimity.engine")
    logger.addFilter(broken)
    try:
        asyncio.run(scenario())
    finally:
        logger.removeFilter(broken)
    assert told
