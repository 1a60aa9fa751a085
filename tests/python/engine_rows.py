"""Rows in the shape that the engine gives, for tests of what is made of them."""

from __future__ import annotations

from typing import Any


def store_row(name: str, **changes: Any) -> dict[str, Any]:
    """What the engine tells of one store that committed."""
    late = 500 if name == "left" else 0
    return {
        "store": name,
        "vote": "COMMIT",
        "note": None,
        "prepare_asked_at": 1_700_000_000_000_100,
        "voted_at": 1_700_000_000_001_000 + late,
        "delivery_asked_at": 1_700_000_000_003_000,
        "acknowledged_at": 1_700_000_000_004_000,
        "attempts": 1,
        **changes,
    }


def row(**changes: Any) -> dict[str, Any]:
    """What the engine tells of one coordination that committed."""
    operations = [
        {"store": name, "type": "put", "key": "k", "operation_id": f"t1:{index}"}
        for index, name in enumerate(("left", "right"))
    ]
    return {
        "coordination_id": "t1",
        "coordination_type": "two_phase_commit",
        "state": "committed",
        "participating_stores": ["left", "right"],
        "operations": operations,
        "timeout_seconds": 30.0,
        "consistency_level": "session",
        "metadata": {},
        "owner": "i-1",
        "epoch": 1,
        "decision": "COMMIT",
        "reason": None,
        "outcome": {
            "kind": "committed",
            "success": True,
            "state": "committed",
            "code": None,
            "message": None,
            "operations_completed": 2,
            "operations_failed": 0,
        },
        "stores": [store_row("left"), store_row("right")],
        "steps": [],
        "created_at": 1_700_000_000_000_000,
        "updated_at": 1_700_000_000_005_000,
        "completed_at": 1_700_000_000_005_000,
        "error_message": None,
        **changes,
    }
