"""What an `HttpStore` and a `store_app` say to each other: paths, bodies, and answers as JSON.

Not a client and not a server. Every question is a POST to `<url>/<method>` with a JSON object,
every answer a JSON object with the fields of the answer's dataclass. Invariants: a question may be
sent again, because each is idempotent by its ids; an answer other than 200 or 501 says nothing of
what was done.
"""

from __future__ import annotations

from typing import Any

from ._stores import (
    AbortResult,
    CommitResult,
    FencingToken,
    OperationRequest,
    OperationResult,
    PrepareRequest,
    PrepareResult,
)

BODY_BYTES_MAX = 16 << 20
KEY_HEADER = "idempotency-key"

METHODS = {
    "prepare": "prepare_transaction",
    "commit": "commit_transaction",
    "abort": "abort_transaction",
    "list": "list_prepared_transactions",
    "execute": "execute_operation",
    "compensate": "compensate_operation",
}
"""The path of each question, and the store's method that answers it."""


def prepare_body(request: PrepareRequest) -> dict[str, Any]:
    """Tell a question for the vote; a token goes with the type of its lock."""
    tokens = {
        resource: [int(token), str(getattr(token, "lock_type", "exclusive"))]
        for resource, token in request.fencing_tokens.items()
    }
    return {**vars(request), "fencing_tokens": tokens}


def prepare_request(body: dict[str, Any]) -> PrepareRequest:
    """Read a question for the vote."""
    tokens: dict[str, int] = {
        resource: FencingToken(token, mode)
        for resource, (token, mode) in body["fencing_tokens"].items()
    }
    return PrepareRequest(
        body["transaction_id"], body["operations"], body["timeout_seconds"], tokens
    )


def argument_of(what: str, body: dict[str, Any]) -> tuple[Any, ...]:
    """What a store's method is called with; raises KeyError or TypeError for a wrong body."""
    if what == "prepare":
        return (prepare_request(body),)
    if what in ("commit", "abort"):
        return (str(body["transaction_id"]),)
    if what == "list":
        return ()
    return (OperationRequest(**body),)


def answer_body(what: str, answer: Any) -> dict[str, Any]:
    """Tell an answer."""
    if what == "list":
        return {"transactions": [str(name) for name in answer]}
    return dict(vars(answer))


def read_answer(what: str, store_name: str, body: dict[str, Any]) -> Any:
    """Read an answer, under the name that the store has here."""
    if what == "list":
        return [str(name) for name in body["transactions"]]
    fields = {**body, "store_name": store_name}
    if what == "prepare":
        return PrepareResult(**fields)
    if what == "commit":
        return CommitResult(**fields)
    if what == "abort":
        return AbortResult(**fields)
    return OperationResult(**fields)


def key_of(what: str, body: dict[str, Any]) -> str:
    """Give the idempotency key: the same for a question that is sent again."""
    parts = [what, str(body.get("transaction_id", ""))]
    if "operation_id" in body:
        parts.append(str(body["operation_id"]))
    return ":".join(parts)
