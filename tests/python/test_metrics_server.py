"""The server of metrics: whoever asks for /metrics gets them, whatever others do meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from metric_readings import Reading
from unanimity import ConfigError, MetricsServer, PrometheusMetrics


@pytest.fixture
def metrics() -> PrometheusMetrics:
    """One that was told something."""
    made = PrometheusMetrics()
    made.increment_counter("asked_total", 3)
    return made


@pytest.fixture
def server(metrics: PrometheusMetrics) -> Iterator[MetricsServer]:
    """Its server, on a free port."""
    with metrics.serve(port=0) as server:
        yield server


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text: str = answer.read().decode()
    return text


def say(server: MetricsServer, words: bytes) -> bytes:
    """What comes back for these bytes, until the server is done."""
    with socket.create_connection((server.host, server.port), timeout=10) as sock:
        sock.sendall(words)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


def test_it_answers_what_is_there_now(metrics: PrometheusMetrics, server: MetricsServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    assert Reading(get(server.url)).value("asked_total") == 3
    metrics.increment_counter("asked_total")
    assert Reading(get(server.url + "?name[]=x")).value("asked_total") == 4


def test_it_answers_nothing_else(server: MetricsServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        get(f"http://127.0.0.1:{server.port}/")
    with raised.value as error:
        assert (error.code, error.read()) == (404, b"the metrics are at /metrics\n")
    assert say(server, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert say(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert say(server, b"\0" * 9_000).startswith(b"HTTP/1.1 431 ")
    head, _, body = say(server, b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body == b""


def test_a_request_may_come_in_pieces(server: MetricsServer) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as sock:
        for piece in (b"GET /met", b"rics HT", b"TP/1.1\r\nHost: x\r\n", b"\r\n"):
            sock.sendall(piece)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"


def test_those_who_say_nothing_hold_nobody_up(server: MetricsServer) -> None:
    silent = [socket.create_connection((server.host, server.port)) for _ in range(200)]
    try:
        assert "asked_total 3" in get(server.url)
    finally:
        for sock in silent:
            sock.close()
    assert "asked_total 3" in get(server.url)


def test_a_long_text_comes_whole_to_a_slow_reader(
    metrics: PrometheusMetrics, server: MetricsServer
) -> None:
    for name in ("wide", "wider", "widest", "more"):
        for number in range(1_000):
            metrics.set_gauge(name, number, labels={"x": "y" * 900 + str(number)})
    with socket.create_connection((server.host, server.port), timeout=10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert "asked_total 3" in get(server.url), "others are answered meanwhile"
        came = b"".join(iter(lambda: sock.recv(10_000), b""))
    assert came.count(b'="yyy') == 4_000 and came.endswith(b"\n")


def test_a_collector_that_cannot_be_read_is_an_answer_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(PrometheusMetrics):
        def render(self) -> str:
            raise ZeroDivisionError("broken")

    with Broken().serve(port=0) as server:
        answer = say(server, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert [record.getMessage() for record in caplog.records] == ["the metrics cannot be shown"]


def test_a_taken_port_is_said_and_free_again_after_the_close(metrics: PrometheusMetrics) -> None:
    server = metrics.serve(port=0)
    with pytest.raises(ConfigError, match=f"cannot be served at 127.0.0.1:{server.port}: ") as at:
        metrics.serve(port=server.port)
    assert at.value.hint == "give another port, or port=0 for one that is free"
    server.close()
    server.close()
    assert "closed" in repr(server)
    metrics.serve(port=server.port).close()


@pytest.mark.parametrize(
    ("host", "port", "error"),
    [
        ("127.0.0.1", 70_000, ConfigError),
        ("127.0.0.1", -1, ConfigError),
        ("127.0.0.1", "9464", TypeError),
        ("127.0.0.1", True, TypeError),
        (None, 0, TypeError),
        ("no host of that name", 0, ConfigError),
        ("203.0.113.1", 0, ConfigError),
    ],
)
def test_an_address_that_cannot_be_used_is_said(
    metrics: PrometheusMetrics, host: str, port: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        metrics.serve(host, port)


def test_a_forked_child_leaves_the_port_to_its_parent(
    metrics: PrometheusMetrics, server: MetricsServer
) -> None:
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "asked_total 3" in get(server.url)


def test_a_program_that_forgets_it_ends_in_peace() -> None:
    script = (
        "import urllib.request\n"
        "from unanimity import PrometheusMetrics\n"
        "server = PrometheusMetrics().serve(port=0)\n"
        "print(urllib.request.urlopen(server.url).status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")
