"""A real PostgreSQL server for tests, in a temporary folder on a free loopback port.

Not a fixture by itself and not a mock; only the standard library is used. A server refuses to run
as root, so root starts it as an unprivileged user. A small shell watches over the server: when its
input ends, because the test process ended in whatever way, it stops the server and removes the
folder. Invariant: after `close()` (or the end of the process) no server and no folder is left.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_START_SECONDS = 60.0
_IN_USE = "is still in use"
_WATCH = """
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
pid=$!; exec 2>/dev/null
read -r verb signal
if [ "$verb" = keep ]; then kill "-$signal" $pid; wait $pid; exit 0; fi
kill -QUIT $pid; wait $pid; rm -rf "$folder" &
"""


def find_postgres(program: str = "postgres") -> Path | None:
    """The newest installed version of a server's program; None where there is none."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    numbered = [folder for folder in versions if folder.parent.name.isdigit()]
    for folder in sorted(numbered, key=lambda folder: int(folder.parent.name), reverse=True):
        if (folder / program).exists():
            return folder / program
    found = shutil.which(program)
    return Path(found) if found else None


class PostgresCluster:
    """A server with `max_prepared_transactions` and fsync on, without passwords on loopback."""

    def __init__(self, max_prepared_transactions: int = 64, **settings: str) -> None:
        self._settings = {
            "max_prepared_transactions": str(max_prepared_transactions),
            "fsync": "on",
            "listen_addresses": "127.0.0.1",
            **settings,
        }
        self._watch: subprocess.Popen[bytes] | None = None
        self._names = (f"test_{index}" for index in itertools.count())
        self._user = _unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="unanimity-pg-"))
        self.port = _free_port()
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        initdb = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", *initdb, "-D", str(self.folder / "data"))

    def __enter__(self) -> PostgresCluster:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts it on the same port and data, and waits until it takes connections."""
        if self._watch is not None:
            return
        settings = {
            **self._settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        server = self._command("postgres", "-D", str(self.folder / "data"))
        for key, value in settings.items():
            server += ["-c", f"{key}={value}"]
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._watch = subprocess.Popen(
                ["sh", "-c", _WATCH, "watch", str(self.folder), *server],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C is the tests' matter, not the server's
            )
            if self._wait_until_ready(self._watch, deadline):
                return
            # After a kill, a new server is refused until the old one's children are gone.
            self._end("QUIT")
        raise RuntimeError(f"the server did not start:\n{self.log()}")

    def stop(self) -> None:
        """Stops it as `pg_ctl stop -m fast` does, and keeps the data."""
        self._end("INT")

    def kill(self) -> None:
        """Kills it without a warning; the next start recovers from its log."""
        self._end("KILL")

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stops it and removes its folder."""
        if self._watch is not None:
            assert self._watch.stdin is not None
            self._watch.stdin.close()
            self._watch.wait()  # for the server; its hundreds of databases go while we go on
            self._watch = None
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str = "postgres") -> str:
        """How to reach a database of it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None) -> str:
        """Creates a database, with a fresh name where none is given; its name."""
        chosen = name if name is not None else next(self._names)
        self.query("postgres", f'CREATE DATABASE "{chosen}"')
        return chosen

    def database_with(self, statement: str) -> str:
        """Creates a database, runs a statement in it, and says how to reach it."""
        name = self.create_database()
        self.query(name, statement)
        return self.dsn(name)

    def query(self, database: str, text: str) -> list[list[str]]:
        """Runs statements; the columns of all rows as text, NULL as an empty one."""
        options = ["-X", "-q", "-A", "-t", "-F", "\x1f", "-v", "ON_ERROR_STOP=1"]
        out = self._run("psql", *options, "-d", self.dsn(database), "-c", text)
        return [line.split("\x1f") for line in out.splitlines()]

    def prepared(self) -> list[str]:
        """The global ids of everything that is prepared, in all databases."""
        rows = self.query("postgres", "SELECT gid FROM pg_prepared_xacts ORDER BY gid")
        return [row[0] for row in rows]

    def log(self) -> str:
        """What the server wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _wait_until_ready(self, watch: subprocess.Popen[bytes], deadline: float) -> bool:
        status = self.folder / "data" / "postmaster.pid"
        refused, in_use = self.log().count("FATAL:"), self.log().count(_IN_USE)
        while time.monotonic() < deadline and watch.poll() is None:
            lines = status.read_text().splitlines() if status.exists() else []
            if len(lines) > 7 and lines[7].strip() == "ready" and self._answers():
                return True
            log = self.log()
            # Refused: by the old server's children, whose file it leaves where it is, or otherwise.
            is_refused = log.count("FATAL:") > refused and not status.exists()
            if is_refused or log.count(_IN_USE) > in_use:
                return False
            time.sleep(0.01)
        return False

    def _answers(self) -> bool:
        try:
            self.query("postgres", "SELECT 1")
        except RuntimeError:
            return False
        return True

    def _end(self, signal: str) -> None:
        if self._watch is None:
            return
        assert self._watch.stdin is not None
        try:
            self._watch.stdin.write(f"keep {signal}\n".encode())
            self._watch.stdin.close()
        except BrokenPipeError:
            pass
        self._watch.wait()
        self._watch = None

    def _command(self, program: str, *arguments: str) -> list[str]:
        path = find_postgres(program)
        if path is None:
            raise FileNotFoundError(f"PostgreSQL's {program} is not installed")
        command = [str(path), *arguments]
        if self._user is None:
            return command
        user = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *user, *command]

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._command(program, *arguments), capture_output=True, text=True, cwd="/", check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stderr}")
        return done.stdout


def _unprivileged_user() -> pwd.struct_passwd | None:
    """The user as whom root runs a server; None when this is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("neither a user 'postgres' nor 'nobody' exists to run the server as")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
