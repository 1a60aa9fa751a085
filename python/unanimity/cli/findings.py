"""What `doctor` finds: one line with how bad it is, and the mend.

Plain data. Invariant: what is "bad" or a "warning" always says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

_ORDER = ("bad", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """`severity` is "ok", "note", "warning" (may go wrong), or "bad" (is wrong now)."""

    check: str
    severity: str
    what: str
    mend: str

    def row(self) -> tuple[object, ...]:
        """The row of a table."""
        return self.severity, self.check, self.what, self.mend


def ok(check: str, what: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", what, "")


def note(check: str, what: str, mend: str = "") -> Finding:
    """Worth to be known."""
    return Finding(check, "note", what, mend)


def warning(check: str, what: str, mend: str) -> Finding:
    """May go wrong."""
    return Finding(check, "warning", what, mend)


def bad(check: str, what: str, mend: str) -> Finding:
    """Is wrong now."""
    return Finding(check, "bad", what, mend)


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Give them in the order in which to mend them."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
