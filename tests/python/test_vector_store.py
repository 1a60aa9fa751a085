"""examples/vector_store.py is true: it tells its story, and its store keeps every duty."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from unanimity.testing import StoreWords, check_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "vector_store.py"


def test_it_tells_its_story(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "the row was refused, so the vector is not there: None\n"
        "nearest to the shore: ['sea', 'hill']\n"
        "rows: ['hill', 'sea']\n"
    )


def _put(key: str, value: str) -> dict[str, Any]:
    return {"type": "put", "key": key, "value": {"vector": [1.0, 0.5, 0.25], "about": value}}


async def _read(store: Any, key: str) -> str | None:
    found = await store.get(key)
    return None if found is None else str(found["about"])


def test_its_store_keeps_every_duty(tmp_path: Path) -> None:
    words = StoreWords(put=_put, read=_read)
    report = check_store(f"{EXAMPLE}:VectorStore", tmp_path / "vectors", words=words)
    assert {result.state for result in report.duties} == {"kept"}, report
