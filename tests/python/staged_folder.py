"""A weak store for tests: a folder of JSON files that knows nothing of transactions.

It dies by SIGKILL before or behind its n-th write where the environment says so, as
`before#2` or `after#2`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from unanimity.staged import StagedStore

DIES = "UNANIMITY_TEST_DIES"


class Folder(StagedStore):
    """One file for each key."""

    def __init__(self, folder: str, staging: str | None = "staging.db") -> None:
        self._folder = Path(folder) / "values"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._written = 0
        super().__init__(None if staging is None else f"{folder}/{staging}", "folder")

    def read(self, key: str) -> Any:
        path = self._folder / key
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, key: str, value: Any) -> None:
        self._written += 1
        self._die("before")
        draft = self._folder / f".{key}"
        draft.write_text(json.dumps(value))
        draft.replace(self._folder / key)
        self._die("after")

    def delete(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    def _die(self, when: str) -> None:
        if os.environ.get(DIES) == f"{when}#{self._written}":
            os.kill(os.getpid(), signal.SIGKILL)


class Carrying(Folder):
    """One that keeps its staging area itself, beside its values."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, None)

    def load_staging(self) -> str | None:
        path = self._folder / ".staging"
        return path.read_text() if path.exists() else None

    def save_staging(self, text: str) -> None:
        draft = self._folder / ".staging-draft"
        draft.write_text(text)
        draft.replace(self._folder / ".staging")
