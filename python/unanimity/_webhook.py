"""Alerts as JSON to an HTTP address: what people hold. The sending itself is `_webhook_delivery`.

Invariants: `send_alert` never waits for the network, so no loop is held up; an alert that cannot be
sent is counted and logged; no secret, and no path of the address, is in a message or a repr.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ._exceptions import ConfigError
from ._metrics import IAlertingService
from ._webhook_delivery import Delivery, Receiver, Retries

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_OWN_HEADERS = ("content-type", "content-length", "host", "user-agent")


class WebhookAlerting(IAlertingService):
    """Posts each alert to `url` as JSON, one after the other, in a thread of its own.

    `secret` signs each post (`X-Unanimity-Signature`), `token` is sent as a bearer's. An answer of
    2xx is a success; no answer, 5xx, 408 and 429 are tried again, `attempts` times in all, with a
    growing wait; anything else is given up at once. `queue_size` alerts may wait; one more is
    dropped. `payload` makes another body of an alert's dict, such as a chat's
    `lambda alert: {"text": alert["message"]}`. Raises ConfigError for what cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 10.0,
        attempts: int = 8,
        retry_base_seconds: float = 0.5,
        retry_max_seconds: float = 60.0,
        queue_size: int = 1_000,
        payload: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """Check the arguments; nothing is opened before the first alert."""
        self._place = _checked_url(url)
        self._payload = payload
        if payload is not None and not callable(payload):
            raise ConfigError("payload cannot be called", hint="give a function of one dict")
        waits = Retries(
            attempts=int(_number(attempts, "attempts", 1, 1_000)),
            base_seconds=_number(retry_base_seconds, "retry_base_seconds", 0, 3_600),
            max_seconds=_number(retry_max_seconds, "retry_max_seconds", 0, 86_400),
        )
        receiver = Receiver(
            url=url,
            place=self._place,
            headers=_checked_headers(headers, token),
            secret=_checked_secret(secret),
            timeout_seconds=_number(timeout_seconds, "timeout_seconds", 0.001, 3_600),
        )
        queue_max = int(_number(queue_size, "queue_size", 1, 1_000_000))
        self._delivery = Delivery(receiver, waits, queue_max)

    @property
    def delivered(self) -> int:
        """How many the receiver has taken."""
        return self._delivery.delivered

    @property
    def dropped(self) -> int:
        """How many were given up, or found no room."""
        return self._delivery.dropped

    async def send_alert(
        self, severity: str, title: str, message: str, details: dict[str, Any]
    ) -> None:
        """Take one alert for delivery, and return."""
        delivery_id = uuid.uuid4().hex
        alert = {
            "id": delivery_id,
            "severity": severity,
            "title": title,
            "message": message,
            "details": details,
            "sent_at": datetime.now(timezone.utc).isoformat(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        body = alert if self._payload is None else self._payload(alert)
        self._delivery.put(delivery_id, f"{title}: {message}", body)

    async def close(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until everything is sent, at most so long, then drop the rest; repeats are fine.

        Whether everything that waited was sent. What waits is tried once more at once.
        """
        wait = _number(timeout_seconds, "timeout_seconds", 0, 86_400)
        return await asyncio.to_thread(self._delivery.close, wait)

    async def __aenter__(self) -> WebhookAlerting:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"WebhookAlerting({self._place!r})"


def _checked_url(url: object) -> str:
    """Check an address, and give what of it may be shown."""
    hint = "give https://host/path or http://host/path"
    if not isinstance(url, str):
        raise ConfigError(f"the webhook's url is a {type(url).__name__}", hint=hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("the webhook's url cannot be read", hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("the webhook's url is no address of http or https", hint=hint)
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise ConfigError(
            "the webhook's url has characters that have to be escaped", hint="write them as %20"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the webhook's url has a user or a password inside", hint="give token= or headers="
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def _checked_headers(headers: object, token: object) -> dict[str, str]:
    given = {} if headers is None else headers
    if not isinstance(given, Mapping):
        raise ConfigError(f"headers is a {type(given).__name__}", hint="give a mapping of str")
    checked: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not _HEADER_NAME.match(name):
            raise ConfigError("headers has a name that is none", hint="give names such as X-Team")
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"headers has {name}", hint="leave it out; it is set for you")
        checked[name] = _header_value(value, f"headers[{name!r}]")
    if token is not None:
        if any(name.lower() == "authorization" for name in checked):
            raise ConfigError("there is a token, and headers has Authorization", hint="give one")
        checked["Authorization"] = "Bearer " + _header_value(token, "token")
    return checked


def _header_value(value: object, name: str) -> str:
    """Check a value that is sent in a header; it is in no message."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise ConfigError(f"{name} cannot be sent in a header", hint="give printable ASCII text")
    return value


def _checked_secret(secret: object) -> bytes | None:
    if secret is None:
        return None
    if not isinstance(secret, (str, bytes)) or not secret:
        raise ConfigError("secret is empty, or no str or bytes", hint="give some random text")
    return secret.encode() if isinstance(secret, str) else secret


def _number(value: object, name: str, least: float, most: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:  # type: ignore[operator,arg-type]
        raise ConfigError(f"{name} is {value!r}", hint=f"give a number from {least:g} to {most:g}")
    return value  # type: ignore[return-value]
