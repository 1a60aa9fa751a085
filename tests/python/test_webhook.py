"""WebhookAlerting against a real receiver: that is up, down, slow, or says no."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from unanimity import ConfigError, LogAlerting, WebhookAlerting
from unanimity._webhook_delivery import Retries
from webhook_receiver import WebhookReceiver

PATIENCE = 30.0


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as server:
        yield server


def send(alerting: WebhookAlerting, *titles: str, wait: float = PATIENCE) -> bool:
    """Send an alert of each title, then close; whether all were sent."""

    async def run() -> bool:
        for title in titles:
            await alerting.send_alert("high", title, f"about {title}", {"coordination_id": "c1"})
        return await alerting.close(wait)

    return asyncio.run(run())


def quick(url: str, **more: Any) -> WebhookAlerting:
    """One that waits very short times between its tries."""
    return WebhookAlerting(url, **{"retry_base_seconds": 0.001, "attempts": 5, **more})


def wait_until_sent(alerting: WebhookAlerting) -> None:
    """Wait for the thread that sends; closing would cut its waits short."""
    delivery = alerting._delivery
    with delivery._changed:
        assert delivery._changed.wait_for(lambda: not delivery._is_running, PATIENCE)


async def put(alerting: WebhookAlerting, title: str) -> None:
    await alerting.send_alert("high", title, f"about {title}", {})


def test_an_alert_is_posted_as_json(receiver: WebhookReceiver) -> None:
    alerting = WebhookAlerting(receiver.url, headers={"X-Team": "payments"}, token="t0ken")
    assert send(alerting, "disk") is True
    (post,) = receiver.posts
    alert = post.alert
    assert (alert["severity"], alert["title"], alert["message"]) == ("high", "disk", "about disk")
    assert alert["details"] == {"coordination_id": "c1"}
    assert (alert["pid"], alert["host"]) == (os.getpid(), socket.gethostname())
    assert alert["sent_at"].endswith("+00:00") and len(alert["id"]) == 32
    assert post.path == "/hooks/s3cr3t-path"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["x-unanimity-delivery"] == alert["id"]
    assert post.headers["x-team"] == "payments"
    assert post.headers["authorization"] == "Bearer t0ken"
    assert "x-unanimity-signature" not in post.headers
    assert (alerting.delivered, alerting.dropped) == (1, 0)


def test_a_secret_signs_the_time_and_the_body(receiver: WebhookReceiver) -> None:
    assert send(WebhookAlerting(receiver.url, secret="swordfish"), "disk")
    (post,) = receiver.posts
    fields = dict(field.split("=") for field in post.headers["x-unanimity-signature"].split(","))
    signed = fields["t"].encode() + b"." + post.body
    assert hmac.new(b"swordfish", signed, hashlib.sha256).hexdigest() == fields["v1"]


def test_alerts_come_in_their_order_and_once(receiver: WebhookReceiver) -> None:
    titles = [f"alert {number}" for number in range(50)]
    receiver.answers.extend([500, 204, 503, 429, 204])
    alerting = quick(receiver.url)

    async def run() -> None:
        for title in titles:
            await put(alerting, title)

    asyncio.run(run())
    wait_until_sent(alerting)
    assert [post.alert["title"] for post in receiver.taken] == titles
    assert (alerting.delivered, alerting.dropped) == (50, 0)


def test_one_that_answers_500_then_fine_gets_the_same_delivery_again(
    receiver: WebhookReceiver,
) -> None:
    receiver.answers.extend([500, 502, 408])
    alerting = quick(receiver.url)
    asyncio.run(put(alerting, "disk"))
    wait_until_sent(alerting)
    assert [post.answered for post in receiver.posts] == [500, 502, 408, 204]
    assert len({post.headers["x-unanimity-delivery"] for post in receiver.posts}) == 1
    assert alerting.delivered == 1


def test_a_refusal_is_given_up_at_once_and_logged(
    receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.extend([401, 204])
    alerting = quick(receiver.url)
    send(alerting, "first", "second")
    assert [post.answered for post in receiver.posts] == [401, 204]
    assert (alerting.delivered, alerting.dropped) == (1, 1)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("unanimity.alerts", logging.ERROR)
    words = record.getMessage()
    assert "first: about first: was not sent to http://127.0.0.1:" in words
    assert "it answered 401" in words and "s3cr3t" not in words


@pytest.mark.parametrize("answer", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: WebhookReceiver, answer: int) -> None:
    with WebhookReceiver() as elsewhere:
        receiver.answers.append(answer)
        receiver.answer_headers["Location"] = elsewhere.url
        alerting = quick(receiver.url, token="t0ken")
        send(alerting, "disk")
        assert (alerting.dropped, elsewhere.posts) == (1, [])


def test_one_that_is_down_is_tried_as_often_as_said_then_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "unanimity.alerts")
    with WebhookReceiver() as receiver:
        url = receiver.url
    alerting = quick(url, attempts=3)
    asyncio.run(put(alerting, "disk"))
    wait_until_sent(alerting)
    assert (alerting.delivered, alerting.dropped) == (0, 1)
    *again, last = [record.getMessage() for record in caplog.records]
    assert len(again) == 2 and all("not taken" in words for words in again)
    assert "ConnectionRefusedError" in last and "tried 3 times" in last


def test_one_that_hangs_is_left_after_the_timeout(receiver: WebhookReceiver) -> None:
    receiver.gate = threading.Event()
    alerting = quick(receiver.url, timeout_seconds=0.05, attempts=2)
    asyncio.run(put(alerting, "disk"))
    wait_until_sent(alerting)
    assert alerting.dropped == 1


def test_a_full_queue_drops_and_says_so_and_the_loop_never_waits(
    receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.gate = threading.Event()
    alerting = WebhookAlerting(receiver.url, queue_size=3)

    async def run() -> None:
        # The receiver answers nothing before all of these have returned.
        for number in range(10):
            await put(alerting, f"alert {number}")

    asyncio.run(run())
    assert alerting.dropped == 7
    assert caplog.records[0].getMessage().endswith("3 alerts wait already")
    receiver.gate.set()
    wait_until_sent(alerting)
    assert [post.alert["title"] for post in receiver.posts] == ["alert 0", "alert 1", "alert 2"]
    asyncio.run(put(alerting, "later"))
    wait_until_sent(alerting)
    assert (alerting.delivered, alerting.dropped) == (4, 7)


def test_closing_is_over_after_its_time_and_drops_what_waits(receiver: WebhookReceiver) -> None:
    receiver.gate = threading.Event()
    alerting = WebhookAlerting(receiver.url)
    assert send(alerting, "a", "b", wait=0.05) is False
    assert (alerting.delivered, alerting.dropped) == (0, 2)
    asyncio.run(put(alerting, "after"))
    assert alerting.dropped == 3
    assert send(alerting) is True


def test_closing_tries_what_waits_once_more_without_its_long_wait(
    receiver: WebhookReceiver,
) -> None:
    receiver.answers.append(500)
    alerting = WebhookAlerting(receiver.url, retry_base_seconds=3_600, retry_max_seconds=3_600)

    async def run() -> bool:
        async with alerting:
            await put(alerting, "disk")
            await asyncio.to_thread(receiver.wait_for, 1)
        return await alerting.close()

    assert asyncio.run(run()) is True
    assert [post.answered for post in receiver.posts] == [500, 204]


def test_closing_tries_only_once_more_and_says_that_it_failed(receiver: WebhookReceiver) -> None:
    receiver.answers.extend([500] * 8)
    alerting = WebhookAlerting(receiver.url, retry_base_seconds=3_600, retry_max_seconds=3_600)
    asyncio.run(put(alerting, "disk"))
    receiver.wait_for(1)
    assert send(alerting) is False
    assert (len(receiver.posts), alerting.dropped) == (2, 1)
    assert send(alerting) is True


def test_over_tls_the_receiver_has_to_be_who_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with WebhookReceiver(context) as receiver:
        stranger = quick(receiver.url, attempts=1)
        send(stranger, "disk")
        assert (stranger.dropped, receiver.posts) == (1, [])
        assert "certificate" in caplog.records[-1].getMessage()
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert send(quick(receiver.url), "disk") and len(receiver.taken) == 1


def test_a_payload_of_ones_own_is_what_is_posted(receiver: WebhookReceiver) -> None:
    alerting = WebhookAlerting(
        receiver.url, payload=lambda alert: {"text": f"{alert['title']}: {alert['message']}"}
    )
    assert send(alerting, "disk")
    assert receiver.posts[0].alert == {"text": "disk: about disk"}


def test_details_that_json_cannot_hold_are_sent_as_text(receiver: WebhookReceiver) -> None:
    alerting = WebhookAlerting(receiver.url)

    async def run() -> None:
        await alerting.send_alert("high", "t", "m", {"where": Path("/tmp"), "odd": "\ud800"})
        await alerting.close()

    asyncio.run(run())
    assert receiver.posts[0].alert["details"] == {"where": "/tmp", "odd": "\ud800"}


def test_it_serves_several_loops_one_after_the_other(receiver: WebhookReceiver) -> None:
    alerting = WebhookAlerting(receiver.url)
    for number in range(3):
        asyncio.run(put(alerting, f"alert {number}"))
    assert send(alerting) and alerting.delivered == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sends_its_own_and_not_its_parents(receiver: WebhookReceiver) -> None:
    receiver.gate = threading.Event()
    alerting = WebhookAlerting(receiver.url)
    asyncio.run(put(alerting, "parent"))
    child = os.fork()
    if child == 0:
        asyncio.run(put(alerting, "child"))
        wait_until_sent(alerting)
        os._exit(0 if alerting.delivered == 1 else 1)
    receiver.gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until_sent(alerting)
    assert sorted(post.alert["title"] for post in receiver.posts) == ["child", "parent"]


def test_waits_double_to_their_most_and_are_spread() -> None:
    retries = Retries(attempts=8, base_seconds=0.5, max_seconds=60.0)
    longest = [retries.wait(tries, None, 1.0) for tries in range(1, 10)]
    assert longest == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [retries.wait(tries, None, 0.0) for tries in (1, 9)] == [0.25, 30]
    assert retries.wait(10_000, None, 1.0) == 60
    # What the receiver asks for is the least, up to the most.
    assert (retries.wait(1, 20.0, 1.0), retries.wait(1, 1e9, 1.0)) == (20, 60)


def test_a_wait_that_the_receiver_asks_for_is_kept(receiver: WebhookReceiver) -> None:
    receiver.answers.append(429)
    receiver.answer_headers["Retry-After"] = "3600"
    alerting = quick(receiver.url, retry_max_seconds=3_600)
    asyncio.run(put(alerting, "disk"))
    receiver.wait_for(1)
    # Without it, the second try would come within a millisecond; closing makes it come now.
    assert send(alerting) and len(receiver.posts) == 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "host/x",
        "https://",
        "https://user:hunter2@host/x",
        "https://host:port/x",
        "https://host/a b",
        "https://host/\r\nX: y",
        "https://h\xf6st/",
        "",
        None,
        b"https://host",
    ],
)
def test_an_address_that_cannot_be_is_refused_without_being_shown(url: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        WebhookAlerting(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"secret": ""},
        {"secret": 5},
        {"token": "hunter2\r\nX: y"},
        {"token": ""},
        {"headers": {"X-A": "hunter2\n"}},
        {"headers": {"X A": "b"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": ["X-A"]},
        {"headers": {"authorization": "hunter2"}, "token": "x"},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"attempts": 0},
        {"attempts": True},
        {"queue_size": "many"},
        {"payload": "text"},
    ],
)
def test_arguments_that_cannot_be_are_refused_without_a_secret(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        WebhookAlerting("https://host/x", **more)
    assert "hunter2" not in str(caught.value)


def test_its_repr_has_neither_the_path_nor_a_secret() -> None:
    alerting = WebhookAlerting("https://hooks.example:8443/s3cr3t?key=x", secret="hunter2")
    assert repr(alerting) == "WebhookAlerting('https://hooks.example:8443')"
    shown = repr(vars(alerting)) + repr(alerting._delivery._receiver)
    assert "s3cr3t" not in shown and "hunter2" not in shown


def test_the_log_gets_each_severity_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "unanimity.alerts")

    async def run() -> None:
        for severity in ("info", "medium", "high", "critical", "odd"):
            await LogAlerting().send_alert(severity, "t", "100% of m", {"a": 1})

    asyncio.run(run())
    records = [record for record in caplog.records if record.name == "unanimity.alerts"]
    levels = [record.levelname for record in records]
    assert levels == ["INFO", "WARNING", "ERROR", "CRITICAL", "WARNING"]
    record: Any = records[2]
    assert record.getMessage() == "t: 100% of m"
    assert (record.severity, record.title, record.details) == ("high", "t", {"a": 1})
