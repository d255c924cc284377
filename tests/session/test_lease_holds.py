"""Holds: each learns of the deletion of its node, however many holds there are, and whatever their nodes
allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from driven import SESSION, START, Driven, checked, fields, path_of, well
from scripted import Feed, Holder, Sent, T, whole

from corral import errors
from corral.wire import messages

GET, EXISTS, MULTI = messages.GET.opcode, messages.EXISTS.opcode, messages.MULTI.opcode
NO_NODE, NO_AUTH = errors.NoNode.code, errors.NoAuth.code
DELETED, DATA_CHANGED = 2, 3
BEAT = T / 6
"""The interval of heartbeats."""

Serve = Callable[[Sent], bytes | None]


def server(gone: Iterable[str] = (), unreadable: Iterable[str] = ()) -> Serve:
    """A server on which some nodes do not exist, and some may not be read."""

    def answer(sent: Sent) -> bytes | None:
        path = (
            checked(sent)[0]
            if sent.opcode == MULTI
            else path_of(sent)
            if sent.opcode in (GET, EXISTS)
            else ""
        )
        code = 0
        if path in gone:
            code = NO_NODE
        elif path in unreadable and sent.opcode != EXISTS:
            code = NO_AUTH
        if not code:
            return well(sent)
        if sent.opcode == MULTI:
            return messages.REPLY_HEADER.pack(sent.xid, 50, 0) + messages.encode_multi_reply(
                [(-1, code, b"")]
            )
        return messages.REPLY_HEADER.pack(sent.xid, 50, code)

    return answer


def asked(seen: list[tuple[float, Sent]], opcode: int) -> list[tuple[float, str]]:
    """When each of these paths was asked for, in seconds after the start."""
    return [(at - START, path_of(sent)) for at, sent in seen if sent.opcode == opcode]


def lost(holders: list[Holder]) -> list[str]:
    return [holder.node for holder in holders if holder.error is not None]


@pytest.fixture
def many() -> tuple[Driven, list[Holder]]:
    """Three thousand holds."""
    driven = Driven(whole)
    driven.connect()
    return driven, [driven.hold(f"/n{n}") for n in range(3000)]


def test_each_of_many_is_told_at_once(many: tuple[Driven, list[Holder]]) -> None:
    """L4: from the first heartbeat on, each of three thousand holds learns of the deletion of its node, and
    of no other's, as soon as the server reports it. Each node is read once, with a watch."""
    driven, holders = many
    seen = driven.go(START + 3 * BEAT, well)
    assert Counter(path for _, path in asked(seen, GET)) == Counter(holder.node for holder in holders)
    assert {at for at, _ in asked(seen, GET)} == {BEAT}
    assert all(fields(sent)[1] for _, sent in seen if sent.opcode == GET)
    assert {len(checked(sent)) for _, sent in seen if sent.opcode == MULTI} == {1}
    for number in (2999, 0, 1500):
        driven.now += 0.25
        driven.notify(DELETED, f"/n{number}")
        assert isinstance(holders[number].error, errors.LockLost)
        assert holders[number].ended == driven.now
        assert f"'/n{number}' was deleted" in str(holders[number].error)
    driven.go(START + 3 * T, server(gone=["/n2999", "/n0", "/n1500"]))
    assert lost(holders) == ["/n0", "/n1500", "/n2999"]


def test_those_that_are_gone_before_they_are_watched(many: tuple[Driven, list[Holder]]) -> None:
    """L4: a node that is deleted before it is watched is found missing by the first heartbeat, at most T/6
    after it was held. One heartbeat finds all of them."""
    driven, holders = many
    gone = {f"/n{n}" for n in range(0, 3000, 7)}
    driven.go(START + BEAT, server(gone))
    assert set(lost(holders)) == gone
    assert {holder.ended for holder in holders if holder.error} == {START + BEAT}


def test_those_that_are_not_to_be_read(feed: Feed) -> None:
    """L4: a node that we may not read is checked by `exists` with each heartbeat, since that needs no
    permission. It does not keep others from being watched; and a heartbeat that the node's ACL refuses still
    proves the session."""
    driven = Driven(feed)
    driven.connect()
    holders = [driven.hold(node) for node in ("/secret", "/open", "/gone")]
    seen = driven.go(START + BEAT, server(unreadable=["/secret"]))
    driven.notify(DELETED, "/gone")
    assert lost(holders) == ["/gone"]
    seen += driven.go(START + 4 * BEAT, server(unreadable=["/secret"]))
    assert asked(seen, EXISTS) == [(n * BEAT, "/secret") for n in (2, 3, 4)]
    assert [at for at, path in asked(seen, GET) if path == "/secret"] == [BEAT]
    assert driven.machine.lease_end() > START + T
    driven.go(START + 5 * BEAT, server(gone=["/secret"]))
    assert lost(holders) == ["/secret", "/gone"]


def test_what_was_changed_is_watched_again(driven: Driven) -> None:
    """L4: a change of the node's data uses up the watch. The next heartbeat sets another, or finds the node
    missing."""
    holders = [driven.hold(node) for node in ("/kept", "/gone")]
    driven.go(START + BEAT, well)
    for holder in holders:
        driven.notify(DATA_CHANGED, holder.node)
    seen = driven.go(START + 2 * BEAT, server(gone=["/gone"]))
    assert sorted(asked(seen, GET)) == [(2 * BEAT, "/gone"), (2 * BEAT, "/kept")]
    assert lost(holders) == ["/gone"]
    assert asked(driven.go(START + 3 * BEAT, well), GET) == []
    driven.notify(DELETED, "/kept")
    assert lost(holders) == ["/kept", "/gone"]


@pytest.mark.parametrize("told_by", ["the watch", "a heartbeat", "a read"])
def test_what_is_being_released_is_not_lost(told_by: str, driven: Driven) -> None:
    """L3: a hold that is being released wants its node deleted, so its deletion, however reported, is no
    loss. Reports about a hold that was given up are ignored."""
    releasing, given_up = driven.hold("/releasing"), driven.hold("/given-up")
    if told_by == "the watch":
        driven.go(START + BEAT, well)
    elif told_by == "a read":
        driven.now = driven.timer
        driven.fire_timer()  # the reads are sent, and not yet answered
        reads = driven.heard()
    releasing.is_leaving = True
    driven.machine.unhold(given_up)
    if told_by == "the watch":
        for holder in (releasing, given_up):
            driven.notify(DELETED, holder.node)
    elif told_by == "a read":
        answer = server(gone=["/releasing", "/given-up"])
        for sent in reads:
            driven.say_raw(answer(sent) or b"")
    driven.go(START + 3 * BEAT, server(gone=["/releasing", "/given-up"]))
    assert lost([releasing, given_up]) == []
    assert driven.machine.is_held(releasing, driven.now)  # its lease continues until the release is certain
    driven.machine.unhold(releasing)
    assert not driven.machine.is_held(releasing, driven.now)


def test_what_could_not_be_released_is_still_watched(driven: Driven) -> None:
    """L3: a hold whose release was refused is again a normal hold: the deletion of its node is a loss."""
    holder = driven.hold()
    driven.go(START + BEAT, well)
    holder.is_leaving = True
    driven.go(START + 2 * BEAT, well)
    holder.is_leaving = False
    driven.keep(holder)
    assert asked(driven.go(START + 3 * BEAT, well), GET) == []
    driven.notify(DELETED, "/held")
    assert lost([holder]) == ["/held"]


def test_watches_of_what_is_held_outlive_the_connection(driven: Driven) -> None:
    """L4: on a new connection the watches are set again, with the zxid at which the last connection ended. So
    the server reports a deletion in between, and nothing is read again."""
    holders = [driven.hold(f"/n{n}") for n in range(3)]
    driven.go(START + BEAT, well)
    driven.lose()
    driven.connect()
    [rearmed, *reads] = driven.heard()
    assert fields(rearmed) == (50, ["/n0", "/n1", "/n2"], [], [])
    assert reads == []
    driven.notify(DELETED, "/n1")
    assert lost(holders) == ["/n1"]


def test_a_read_that_the_connection_breaks_on_is_asked_again(driven: Driven) -> None:
    """L4: until a watch is known to be set, the node is read, again after each lost connection."""
    holder = driven.hold()
    reads = 0
    for _ in range(4):
        for sent in _until_beat(driven):
            reads += sent.opcode == GET
        driven.lose()
        driven.connect()
    assert reads == 4
    driven.go(driven.now, server(gone=["/held"]))
    assert lost([holder]) == ["/held"]


def _until_beat(driven: Driven) -> list[Sent]:
    """What is sent up to and including the next heartbeat, which no server answers."""
    sent = driven.heard()
    while not any(each.opcode == MULTI for each in sent):
        driven.now = max(driven.now, driven.timer)
        driven.fire_timer()
        sent += driven.heard()
    return sent


def test_a_node_whose_read_breaks_connections(feed: Feed) -> None:
    """L4: if connection after connection breaks on the read of a held node, the node is checked by `exists`
    instead. A client that repeated the read for ever would never keep a connection."""
    driven = Driven(feed)
    driven.connect()
    holder, broken = driven.hold(), 0
    while broken < 3 * errors.ConnectionLoss.MOST_LOSSES and driven.now < START + 5 * T:
        for sent in driven.heard():
            if sent.opcode == GET:
                driven.lose()
                driven.connect()
                broken += 1
                break
            driven.say_raw(well(sent) or b"")
        else:
            driven.now = max(driven.now, driven.timer)
            driven.fire_timer()
    assert broken == errors.ConnectionLoss.MOST_LOSSES
    assert lost([holder]) == []


def test_what_has_to_be_there_may_change(driven: Driven) -> None:
    """L4: a hold may come to depend on another node, as when a write lock is downgraded. Then that node is
    watched, and the deletion of the previous one is no loss."""
    holder = driven.hold("/writer")
    driven.go(START + BEAT, well)
    holder.checked = "/reader"
    driven.notify(DELETED, "/writer")
    assert lost([holder]) == []
    seen = driven.go(START + 2 * BEAT, well)
    assert asked(seen, GET) == [(2 * BEAT, "/reader")]
    assert [checked(sent) for _, sent in seen if sent.opcode == MULTI] == [["/reader"]]
    driven.notify(DELETED, "/reader")
    assert lost([holder]) == ["/writer"]


def test_what_had_to_be_there_before_does_not_matter(driven: Driven) -> None:
    """L4: it is no loss either if an `exists`, sent before the change, finds the previous node missing."""
    holder = driven.hold("/writer")
    driven.go(START + BEAT, server(unreadable=["/writer"]))
    driven.now = driven.timer
    driven.fire_timer()
    sent = driven.heard()
    assert EXISTS in [each.opcode for each in sent]
    holder.checked = "/reader"
    answer = server(gone=["/writer"])
    for each in sent:
        driven.say_raw(answer(each) or b"")
    assert lost([holder]) == []


def test_the_end_of_the_session_is_told_to_all(many: tuple[Driven, list[Holder]]) -> None:
    """S3: when the session is over, each hold is notified once, and its node is no longer asked for."""
    driven, holders = many
    driven.go(START + BEAT, well)
    driven.lose()
    driven.open()
    driven.accept(session_id=0, timeout=0)
    assert {type(holder.error) for holder in holders} == {errors.SessionExpired}
    driven.lose()
    driven.connect(session_id=SESSION + 1)
    assert driven.heard() == []
    assert driven.machine.describe_held() == ""


def test_what_is_held_is_named(driven: Driven) -> None:
    """O: log lines name the first few held nodes, and how many more there are."""
    assert driven.machine.describe_held() == ""
    for n in range(5):
        driven.hold(f"/n{n}")
    assert driven.machine.describe_held() == "/n0, /n1, /n2, /n3, /n4"
    for n in range(5, 1240):
        driven.hold(f"/n{n}")
    assert driven.machine.describe_held() == "/n0, /n1, /n2, /n3, /n4 and 1,235 more"
