"""`python -m corral.testing`: a server for clients in any language, started from the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import corral
from corral.testing import EmbeddedServer

PATIENCE = 30.0
COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "corral.testing"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(corral.__file__).parents[1]), "PYTHONUNBUFFERED": ""}


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the line that it prints when it serves. It is killed at the end, or when it takes too
    long."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    bound = threading.Timer(PATIENCE, process.kill)
    bound.start()
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        bound.cancel()
        process.kill()
        process.communicate()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )


def ask(address: str, word: str) -> str:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(word.encode())
        return b"".join(iter(lambda: sock.recv(4096), b"")).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_serves_until_a_signal(number: signal.Signals) -> None:
    """It prints one line with its address when it serves. On a signal it ends at once, even with clients
    connected, with status 0 and no output."""
    with running("--port", "0") as (process, line):
        address, _, what = line.partition(" ")
        assert what == "serves as 3.8.0-embedded\n"
        assert ask(address, "ruok") == "imok"
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            process.send_signal(number)
            assert process.communicate() == ("", "")
            assert process.returncode == 0
            assert sock.recv(1) == b""


def test_options_reach_the_server() -> None:
    """Options reach the server; times are in seconds."""
    options = {
        "--host": ["localhost"],
        "--port": ["0"],
        "--version": ["3.9"],
        "--tick-time": ["0.25"],
        "--session-timeout": ["0.75", "40"],
        "--container-check-interval": ["7.5"],
        "--jute-maxbuffer": ["2000"],
        "--read-only": [],
    }
    with running(*(part for name, values in options.items() for part in (name, *values))) as (_, line):
        address, _, what = line.partition(" ")
        assert address.startswith("localhost:")
        assert what == "serves as 3.9.5-embedded\n"
        conf = ask(address, "conf").splitlines()
        assert {"tickTime=250", "minSessionTimeout=750", "maxSessionTimeout=40000"} <= set(conf)
        assert ask(address, "isro") == "ro"
        assert "Mode: read-only" in ask(address, "srvr")


def test_the_port_is_zookeepers_own() -> None:
    """The default port is ZooKeeper's."""
    assert "(default: 2181)" in run("--help").stdout


def test_a_taken_port_is_one_clear_line() -> None:
    """If the port is taken, one line on stderr says so, with the remedy; the status is 1."""
    with EmbeddedServer(thread=True) as server:
        _, _, port = server.address.rpartition(":")
        done = run("--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"python -m corral.testing: cannot listen on 127.0.0.1:{port}: address already in use; "
        "--port 0 takes a free port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tick-time", "-1"], "tick_time must be a positive, finite number of seconds, not -1.0"),
        (["--session-timeout", "5", "1"], "at least 5 s and at most 1 s"),
        (["--port", "100000"], "port 100000 is not between 0 (a free one) and 65535"),
        (["--jute-maxbuffer", "1"], "jute_maxbuffer 1 is not between"),
        (["--version", "2"], "invalid choice: '2'"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], says: str) -> None:
    """For an invalid option one line gives the reason, below the usage; the status is 2, as with any wrong
    argument."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.splitlines()[-1]


def test_help() -> None:
    """The help text says what the command is, how it ends, what is stored, and lists each option with its
    default."""
    done = run("--help")
    said = " ".join(done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "any client in any language" in said
    assert "until Ctrl-C or SIGTERM" in said
    assert "Nothing is stored" in said
    for option in ("host", "port", "version", "tick-time", "session-timeout", "container-check-interval"):
        assert f"--{option}" in said
    assert said.count("(default: ") == 8
