"""ZooKeeper's own shell, and thereby its Java client, on an embedded server and on a real one."""

from __future__ import annotations

import subprocess

import pytest

from corral.testing import LocalServer
from corral.testing.servers.jvm import find_classpath, find_java


def shell(server: str, *command: str) -> list[str]:
    """Run one command, as `zkCli.sh` does; returns the lines of its output."""
    java = [find_java(None), "-XX:TieredStopAtLevel=1", "-cp", find_classpath()]
    done = subprocess.run(
        [*java, "org.apache.zookeeper.ZooKeeperMain", "-server", server, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def listed(server: str) -> list[str]:
    """The children of the root; lines about the session's state may come before and after."""
    [children] = [line for line in shell(server, "ls", "/") if line.startswith("[")]
    return children.strip("[]").split(", ")


@pytest.mark.skipif(bool(LocalServer.missing()), reason=f"zkCli.sh: {LocalServer.missing()}")
def test_create_list_get_delete(server: str, place: str) -> None:
    """Each command runs in its own session, as from a script."""
    assert place[1:] not in listed(server)
    shell(server, "create", place, "data")
    assert place[1:] in listed(server)
    answer = shell(server, "get", "-s", place)
    assert "data" in answer
    assert "dataVersion = 0" in answer
    assert "numChildren = 0" in answer
    shell(server, "deleteall", place)
    assert place[1:] not in listed(server)
