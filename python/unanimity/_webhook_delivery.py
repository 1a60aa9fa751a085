"""Sends bodies to an HTTP address, one after the other, from a thread that runs while any wait.

Not what is sent (`_webhook`). Invariants: `put` never waits; each body is delivered, or counted as
dropped and logged; redirects are not followed, so a signature or token goes to the address given
and nowhere else; a forked child has none of its parent's bodies.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import IO, Any

from ._alerting import ALERT_LOGGER

_log = logging.getLogger(ALERT_LOGGER)
_AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Retries:
    """How often a body is tried, and how long the waits in between are."""

    attempts: int
    base_seconds: float
    max_seconds: float

    def wait(self, tries: int, asked: float | None, chance: float) -> float:
        """How long to wait after so many tries; `chance` is from 0 to 1.

        Doubled with each try up to the most, and between half and all of that, so that many
        senders do not come back at once. What the receiver asks for is the least.
        """
        grown = min(self.max_seconds, self.base_seconds * 2.0 ** min(tries - 1, 60))
        return min(max(grown * (0.5 + chance / 2), asked or 0.0), self.max_seconds)


@dataclass(frozen=True)
class Receiver:
    """Where bodies go, and by what they are known there."""

    url: str = field(repr=False)
    place: str
    headers: dict[str, str] = field(repr=False)
    secret: bytes | None = field(repr=False)
    timeout_seconds: float

    def post(self, delivery_id: str, body: bytes) -> None:
        """Send one; raises _Refused where the receiver did not take it."""
        headers = {
            **self.headers,
            "Content-Type": "application/json",
            "User-Agent": "unanimity",
            "X-Unanimity-Delivery": delivery_id,
        }
        if self.secret is not None:
            headers["X-Unanimity-Signature"] = signature(self.secret, int(time.time()), body)
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout_seconds):
                return
        except urllib.error.HTTPError as error:
            with error:
                asked = _seconds(error.headers.get("Retry-After"))
            words = f"it answered {error.code}"
            raise _Refused(words, error.code >= 500 or error.code in _AGAIN, asked) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _Refused(f"{type(reason).__name__}: {reason}", True, None) from None


class _Refused(Exception):
    def __init__(self, words: str, again: bool, asked_seconds: float | None) -> None:
        super().__init__(words)
        self.again = again
        self.asked_seconds = asked_seconds


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message[str, str],
        newurl: str,
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def signature(secret: bytes, seconds: int, body: bytes) -> str:
    """Sign a body and the time: `t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>", hex>`."""
    mark = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={mark}"


def _seconds(header: str | None) -> float | None:
    """How long a receiver asks to wait, where it says so in seconds."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


@dataclass(frozen=True)
class _Body:
    delivery_id: str
    words: str
    """What the log says of it where it is dropped."""
    body: bytes


class Delivery:
    """The queue and its thread."""

    def __init__(self, receiver: Receiver, retries: Retries, queue_max: int) -> None:
        """Begin with nothing to send."""
        self._receiver = receiver
        self._retries = retries
        self._queue_max = queue_max
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[_Body] = deque()
        self._is_running = False
        # When it is closed and nothing is waited for any more; None while it is open.
        self._ends_at: float | None = None
        self.delivered = 0
        self.dropped = 0

    def put(self, delivery_id: str, words: str, body: Any) -> None:
        """Queue one, with a thread to send it; or drop it where there is no room."""
        if self._pid != os.getpid():
            self._begin()
        # What JSON cannot hold is sent as its text: a strange detail is no reason for silence.
        encoded = json.dumps(body, default=str).encode()
        with self._changed:
            if self._ends_at is not None:
                return self._drop(words, "the service for alerts is closed")
            if len(self._waiting) >= self._queue_max:
                return self._drop(words, f"{self._queue_max} alerts wait already")
            self._waiting.append(_Body(delivery_id, words, encoded))
            if not self._is_running:
                # A daemon: a receiver that hangs does not keep the program from ending.
                threading.Thread(target=self._run, name="unanimity-alerts", daemon=True).start()
                self._is_running = True

    def close(self, timeout_seconds: float) -> bool:
        """Send what waits, at most so long; whether all of it was sent."""
        with self._changed:
            dropped_before = self.dropped
            if self._ends_at is None:
                self._ends_at = time.monotonic() + timeout_seconds
            self._changed.notify_all()
            ends_at = self._ends_at
            self._changed.wait_for(
                lambda: not self._is_running, max(0.0, ends_at - time.monotonic())
            )
            for body in self._waiting:
                self._drop(body.words, "it was closed before it could be sent")
            self._waiting.clear()
            return self.dropped == dropped_before

    def _drop(self, words: str, why: str) -> None:
        self.dropped += 1
        _log.error("%s: was not sent to %s: %s", words, self._receiver.place, why)

    def _run(self) -> None:
        """Send until nothing waits. The one that is being sent keeps its place meanwhile."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_running = False
                    self._changed.notify_all()
                    return
                body = self._waiting[0]
            trouble = self._deliver(body)
            with self._changed:
                if not self._waiting or self._waiting[0] is not body:
                    # It was closed meanwhile, and this one is counted as dropped.
                    continue
                self._waiting.popleft()
                if trouble is None:
                    self.delivered += 1
                else:
                    self._drop(body.words, trouble)

    def _deliver(self, body: _Body) -> str | None:
        """Try one until it is taken or given up; why it was given up."""
        tries = 0
        while True:
            tries += 1
            # A try that began after it was closed is the last one.
            is_last = tries >= self._retries.attempts or self._ends_at is not None
            try:
                self._receiver.post(body.delivery_id, body.body)
                return None
            except _Refused as refused:
                trouble = f"{refused} (tried {tries} times)"
                if not refused.again or is_last:
                    return trouble
                wait = self._retries.wait(tries, refused.asked_seconds, random.random())
            except Exception as error:  # A mistake of ours must not end the thread in silence.
                return f"{type(error).__name__}: {error}"
            _log.info("%s: not taken by %s yet: %s", body.words, self._receiver.place, trouble)
            with self._changed:
                self._changed.wait_for(lambda: self._ends_at is not None, wait)
