"""Four letter words: the formats that parsers of the answers rely on."""

from __future__ import annotations

import re

import pytest
from core_support import EPHEMERAL, Core, Wire

from corral.testing.embedded import four_letter_words
from corral.wire import messages as m


@pytest.fixture
def core() -> Core:
    """A server."""
    return Core()


@pytest.fixture
def wire(core: Core) -> Wire:
    """A session that has an ephemeral node and a watch."""
    wire = core.client(timeout=10)
    wire.create("/e", b"12345", flags=EPHEMERAL)
    wire.do(m.EXISTS, "/e", True)
    wire.do(m.CHILDREN, "/", True)
    return wire


def ask(core: Core, word: str) -> str:
    """The answer to a word."""
    return four_letter_words.answer(core.zk, word, core.now)


def test_which_are_known() -> None:
    """Words are recognized by the first bytes of a connection, which are otherwise the length of a frame."""
    assert four_letter_words.known(b"ruok") == "ruok"
    assert four_letter_words.known(b"srvr\r\n") == "srvr"
    assert four_letter_words.known(b"crst") == "crst"
    for first in (b"", b"ru", b"quit", (44).to_bytes(4), b"\xff\xff\xff\xff"):
        assert four_letter_words.known(first) is None


def test_ruok(core: Core) -> None:
    """The answer has no newline."""
    assert ask(core, "ruok") == "imok"


def test_isro(core: Core) -> None:
    """The answer says whether the server is read-only."""
    assert ask(core, "isro") == "rw"
    core.zk.read_only = True
    assert ask(core, "isro") == "ro"


def test_srvr(core: Core, wire: Wire) -> None:
    """The lines are those of a real server, in its order."""
    lines = ask(core, "srvr").splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Zookeeper version", "Latency min/avg/max", "Received", "Sent", "Connections", "Outstanding", "Zxid",
        "Mode", "Node count",
    ]  # fmt: skip
    assert lines[0].startswith("Zookeeper version: 3.8.0")
    assert {
        "Received: 4",
        "Sent: 4",
        "Connections: 1",
        "Zxid: 0x2",
        "Mode: standalone",
        "Node count: 6",
    } < set(lines)
    core.zk.read_only = True
    assert "Mode: read-only" in ask(core, "srvr").splitlines()


def test_what_was_sent_stays_counted(core: Core, wire: Wire) -> None:
    """The packets of a closed connection still count."""
    wire.ask(m.CLOSE)
    assert {"Received: 5", "Sent: 7", "Connections: 0"} < set(ask(core, "srvr").splitlines())


def test_stat(core: Core, wire: Wire) -> None:
    """The answer is that of `srvr`, with the connections in front."""
    answer = ask(core, "stat")
    assert "Clients:\n /127.0.0.1:4321[1](queued=0,recved=4,sent=4)\n\nLatency" in answer


def test_mntr(core: Core, wire: Wire) -> None:
    """Each line has a name and a value, separated by a tab."""
    figures = dict(line.split("\t") for line in ask(core, "mntr").splitlines())
    assert figures["zk_server_state"] == "standalone"
    assert figures["zk_znode_count"] == "6"
    assert figures["zk_watch_count"] == "2"
    assert figures["zk_ephemerals_count"] == "1"
    assert figures["zk_num_alive_connections"] == figures["zk_global_sessions"] == "1"
    assert int(figures["zk_approximate_data_size"]) > 5


def test_cons(core: Core, wire: Wire) -> None:
    """The answer has the fields that the benchmarks read."""
    core.wire()
    answer = ask(core, "cons")
    found = re.findall(r"recved=(\d+).*?sid=0x([0-9a-f]+)", answer)
    assert found == [("4", f"{wire.link.session_id:x}")]
    assert ",lop=GETC," in answer
    assert ",lcxid=0x3,lzxid=0x2," in answer
    assert answer.endswith(")\n\n")


def test_dump(core: Core, wire: Wire) -> None:
    """The answer lists sessions by expiry, their ephemerals, and connections."""
    sid = f"0x{wire.link.session_id:x}"
    assert ask(core, "dump").splitlines() == [
        "SessionTracker dump:",
        "Session Sets (1)/(1):",
        "1 expire at Tue Nov 14 22:13:30 UTC 2023:",
        f"\t{sid}",
        "ephemeral nodes dump:",
        "Sessions with Ephemerals (1):",
        f"{sid}:",
        "\t/e",
        "Connections dump:",
        "Connections Sets (1)/(1):",
        f"\tip: /127.0.0.1:4321 sessionId: {sid}",
    ]


def test_watches(core: Core, wire: Wire) -> None:
    """The answers list the data watches, by path and by connection."""
    sid = f"0x{wire.link.session_id:x}"
    assert ask(core, "wchs") == "1 connections watching 1 paths\nTotal watches:1\n"
    assert ask(core, "wchp") == f"/e\n\t{sid}\n\n"
    assert ask(core, "wchc") == f"{sid}\n\t/e\n\n"


def test_conf(core: Core) -> None:
    """The answer lists the settings, in milliseconds."""
    core.zk.port = 2181
    lines = ask(core, "conf").splitlines()
    assert {"clientPort=2181", "tickTime=500", "minSessionTimeout=1000", "maxSessionTimeout=10000"} < set(
        lines
    )


def test_envi(core: Core) -> None:
    """The answer has at least the version."""
    assert ask(core, "envi").startswith("Environment:\nzookeeper.version=3.8.0")


def test_words_that_are_switched_off(core: Core) -> None:
    """A disabled word is answered as a real server does."""
    assert ask(core, "crst") == "crst is not executed because it is not in the whitelist.\n"
    with pytest.raises(KeyError):
        ask(core, "quit")
