"""What is shown to whoever runs it: the configuration, a cluster as one of its nodes sees it.

Picks and orders facts; the forms say them. Invariant: a secret is shown masked, in every form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .model import Facts, State, Table, View

if TYPE_CHECKING:
    from .._config import CoordinationConfig

_MEMBERS = ("member", "address", "role", "lag")
_NO_LEADER = "none that it knows"


def config_view(config: CoordinationConfig, *, with_origin: bool = True) -> View:
    """Every setting, with the place that it came from."""
    headers: tuple[str, ...] = ("key", "value", "origin")
    rows: list[tuple[str, ...]] = [
        (setting.key, _shown(setting.shown), setting.origin) for setting in config.settings()
    ]
    if not with_origin:
        headers, rows = headers[:2], [row[:2] for row in rows]
    return View("", config.to_mapping(), (Table("", headers, rows),))


def _shown(value: object) -> str:
    """A value as the file would have it, but for what is not there."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cluster_view(status: Mapping[str, Any]) -> View:
    """The cluster as one of its nodes sees it."""
    leader = status.get("leader_id")
    facts: list[tuple[str, object]] = [
        ("node", status.get("node_id")),
        ("state", State(status.get("state", "?"))),
        ("leader", _NO_LEADER if leader is None else leader),
        ("term", status.get("term")),
        ("committed", status.get("commit_index")),
        ("applied", status.get("last_applied")),
    ]
    if status.get("trouble") is not None:
        facts.append(("trouble", status["trouble"]))
    rows = [
        (one.get("id"), one.get("address"), State(one.get("role", "?")), one.get("lag"))
        for one in status.get("members", ())
    ]
    table = Table("members", _MEMBERS, rows)
    return View("", dict(status), (Facts(facts), table))
