"""operations.md is true: its commands are run, in its order, on machines of a make-believe.

A machine is a folder with its own /etc/unanimity and /var/lib/unanimity, a port for its address,
and a `systemctl` that starts and stops the unit's command. The nodes are real processes.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raft_cluster import SECRET, free_ports

TEXT = (Path(__file__).parents[2] / "docs" / "operate" / "operations.md").read_text()
BLOCKS = re.findall(r"```sh\n# on ([^\n]+)\n(.*?)```", TEXT, re.S)
((YAML,), (UNIT,)) = (re.findall(rf"```{kind}\n(.*?)```", TEXT, re.S) for kind in ("yaml", "ini"))
ADDRESSES = {"a": "10.0.0.1:7800", "b": "10.0.0.2:7800", "c": "10.0.0.3:7800", "d": "10.0.0.4:7800"}
_BIN = Path(sys.executable).parent
_SYSTEMCTL = f"""#!/bin/sh
exec "{sys.executable}" "{Path(__file__).with_name("operations_systemctl.py")}" "$1" "$MACHINE"
"""


class Machine:
    """A machine of the page."""

    def __init__(self, folder: Path, places: dict[str, str], node_id: str) -> None:
        self.folder, self.places = folder, places
        for path in ("etc", "bin"):
            (folder / path).mkdir(parents=True)
        text = YAML.replace("node_id: a", f"node_id: {node_id}")
        if node_id == "d":
            text = text.replace('"c=10.0.0.3:7800"', '"c=10.0.0.3:7800", "d=10.0.0.4:7800"')
        (folder / "etc" / "node.yaml").write_text(self.here(text))
        (folder / "etc" / "secret").write_text(SECRET)
        systemctl = folder / "bin" / "systemctl"
        systemctl.write_text(_SYSTEMCTL)
        systemctl.chmod(0o755)

    def here(self, text: str) -> str:
        """What the page's paths and addresses are here."""
        text = text.replace("/etc/unanimity", str(self.folder / "etc"))
        text = text.replace("/var/lib/unanimity", str(self.folder / "data"))
        text = text.replace("/var/backups/unanimity", str(self.folder / "backup"))
        for node_id, address in ADDRESSES.items():
            text = text.replace(address, self.places[node_id])
        return text

    def run(self, commands: str) -> str:
        """Run commands of the page as a shell does, and give what they print."""
        done = subprocess.run(
            ["sh", "-e", "-c", self.here(commands)],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_in_front(self, command: str) -> str:
        """Run a node until it has printed its line, and end it as a shell's user does."""
        with subprocess.Popen(
            self.here(command).split(),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as node:
            assert node.stdout is not None
            line = node.stdout.readline()
            node.send_signal(signal.SIGINT)
            assert node.wait(60) == 0
        return line

    def _environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:{_BIN}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "MACHINE": str(self.folder)}

    def status(self) -> dict[str, Any]:
        told = self.run("unanimity raft status --config /etc/unanimity/node.yaml --json")
        status: dict[str, Any] = json.loads(told)
        return status

    def end(self) -> None:
        """Kill what runs here."""
        pid = self.folder / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    ports = free_ports(len(ADDRESSES))
    places = {name: f"127.0.0.1:{port}" for name, port in zip(ADDRESSES, ports, strict=True)}
    made = {name: Machine(tmp_path / name, places, name) for name in ADDRESSES}
    try:
        yield made
    finally:
        for machine in made.values():
            machine.end()


def _block(machines: dict[str, Machine], index: int) -> None:
    names, commands = BLOCKS[index]
    for name in names.split(", "):
        machines[name].run(commands)


def _members(machine: Machine) -> set[str]:
    machine.run("until unanimity raft status --config /etc/unanimity/node.yaml; do sleep 0.1; done")
    return {member["id"] for member in machine.status()["members"]}


def test_its_commands_set_up_replace_upgrade_and_restore(machines: dict[str, Machine]) -> None:
    _, by_hand = BLOCKS[0]
    check, run = by_hand.splitlines()
    assert "all right" in machines["a"].run(check)
    (shown,) = re.findall(r"```text\n(.*?)```", TEXT, re.S)
    assert machines["a"].run_in_front(run) == machines["a"].here(shown)
    rest = iter(range(1, len(BLOCKS)))

    _block(machines, next(rest))  # as units
    assert _members(machines["b"]) == {"a", "b", "c"}
    _block(machines, next(rest))  # looked at

    machines["b"].end()  # it is lost
    (machines["b"].folder / "pid").unlink()
    _block(machines, next(rest))
    _block(machines, next(rest))
    assert _members(machines["d"]) == {"a", "c", "d"}
    for name in ("a", "c", "d"):
        file = machines[name].folder / "etc" / "node.yaml"
        lines = file.read_text().splitlines(keepends=True)
        nodes = json.dumps([f"{one}={machines['a'].places[one]}" for one in "acd"])
        key = "    cluster_nodes: "
        file.write_text("".join(f"{key}{nodes}\n" if key in one else one for one in lines))

    _block(machines, next(rest))  # upgraded
    assert machines["c"].status()["state"] in ("leader", "follower")
    before = machines["a"].status()

    for index in rest:  # copied, and restored
        _block(machines, index)
    assert _members(machines["a"]) == {"a", "c", "d"}
    after = machines["a"].status()
    assert after["term"] >= before["term"] and after["last_applied"] >= 1
    for name in ("a", "c", "d"):
        machines[name].run("systemctl stop unanimity")


def test_its_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    command = unit["Service"]["ExecStart"]
    assert command.endswith("unanimity node /etc/unanimity/node.yaml")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    # The program is elsewhere here, and the user of the page is not known.
    here = UNIT.replace("/opt/unanimity/bin/unanimity", "/bin/true")
    here = here.replace("User=unanimity", "User=root")
    file = tmp_path / "unanimity.service"
    file.write_text(here)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60
    )
    told = [line for line in done.stderr.splitlines() if "unanimity.service" in line]
    assert (done.returncode, told) == (0, []), done.stderr
