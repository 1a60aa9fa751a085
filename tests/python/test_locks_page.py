"""locks.md is true: its program prints what it says, its matrix is that of the managers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from page_programs import programs_of, run_program
from unanimity import LocalLockManager, LockType

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "locks.md").read_text()


def test_its_program_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    ((program, shown),) = programs_of(TEXT)
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)


def test_its_matrix_is_what_the_manager_grants() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, re.M)
    matrix = {
        (name, other): cell.strip() == "yes"
        for name, cells in rows
        for other, cell in zip(
            ["INTENT_SHARED", "INTENT_EXCLUSIVE", "SHARED", "EXCLUSIVE"],
            cells.split("|"),
            strict=True,
        )
        if name in LockType.__members__
    }
    assert len(matrix) == 16

    async def scenario() -> None:
        async with LocalLockManager() as manager:
            for (name, other), agree in matrix.items():
                resource = f"{name}/{other}"
                assert (await manager.acquire_lock(resource, LockType[name], "ann")).acquired
                asked = await manager.acquire_lock(resource, LockType[other], "bob", 0)
                assert asked.acquired is agree, resource

    asyncio.run(scenario())


def test_every_method_is_on_it() -> None:
    public = {name for name in dir(LocalLockManager) if not name.startswith("_")}
    hidden = {"for_service", "start", "close"}
    # As code: a call, or an attribute that is set.
    missing = [name for name in public - hidden if not re.search(rf"[` ]{name}(\(| =)", TEXT)]
    assert missing == []
