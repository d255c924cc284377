"""Timing under the supervisor's one timer: pings, heartbeats, silence, lapse and expiry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driven import LATENESS, SESSION, START, Driven, checked, deposed, never, path_of, well
from scripted import DIGEST, GET_REPLY, Feed, Holder, Sent, T

from corral import errors
from corral.session.watch_registry import WatchState
from corral.session.watchers import WatchEvent
from corral.types import State
from corral.wire import messages

PING, MULTI = messages.PING.opcode, messages.MULTI.opcode


def times(seen: list[tuple[float, Sent]], opcode: int) -> list[float]:
    """When requests of one kind were sent, in seconds after the start."""
    return [at - START for at, sent in seen if sent.opcode == opcode]


class Watcher:
    """A watcher of a path."""

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        """Not notified in these tests."""


# Nothing is held


def test_idle_pings(driven: Driven) -> None:
    """S1: an idle client sends a ping every T/3, and nothing else."""
    seen = driven.go(START + 2 * T, well)
    assert [sent.opcode for _, sent in seen] == [PING] * 6
    assert times(seen, PING) == [T / 3 * n for n in range(1, 7)]


def test_traffic_is_as_good_as_a_ping(driven: Driven) -> None:
    """S1: while requests are answered no pings are sent; T/3 after the last request there is one."""
    seen = []
    for n in range(8):
        seen += driven.go(START + n * T / 4, well)
        driven.read()
    last = driven.now
    seen += driven.go(last + T / 3, well)
    assert times(seen, PING) == [last - START + T / 3]


def test_a_dead_connection_is_found_before_the_session_is_over(driven: Driven) -> None:
    """S1: when a server falls silent, an idle client drops the connection T/2 after the first unanswered
    ping, while there is still time to resume the session elsewhere."""
    driven.go(START + T, well)
    last_heard = driven.now
    seen = driven.go(last_heard + T)
    [ping] = times(seen, PING)
    [(dropped, why)] = driven.drops
    assert dropped - START == ping + T / 2
    assert dropped < last_heard + T
    assert "no answer" in why
    assert driven.machine.state is State.SUSPENDED


def test_an_unanswered_request_is_found_as_silence(driven: Driven) -> None:
    """S1: if a request is unanswered for T/2 and nothing has been received since, the connection ends.
    Submitting other requests meanwhile does not delay that."""
    driven.read()
    driven.heard()
    for n in range(1, 6):
        driven.go(START + n * T / 12)
        driven.read()
    driven.go(START + T)
    assert [at for at, _ in driven.drops] == [START + T / 2]


def events(driven: Driven) -> None:
    driven.notify(3, "/w")


def pongs(driven: Driven) -> None:
    driven.say_raw(messages.REPLY_HEADER.pack(messages.PING_XID, 50, 0))


def a_byte(driven: Driven) -> None:
    """One byte of an answer that never ends."""
    driven.say_bytes(b"\x00" if driven.now > START + T / 20 else b"\x00\x00\x10\x00")


@pytest.mark.parametrize("chatter", [events, pongs, a_byte])
def test_other_bytes_do_not_end_the_silence(chatter: Callable[[Driven], None], feed: Feed) -> None:
    """S1: a request that is unanswered for T/2 ends the connection, exactly then, whatever else the server
    sends: events, answers to pings, or an answer byte by byte."""
    driven = Driven(feed)
    driven.connect()
    driven.read()
    driven.heard()
    for n in range(1, 30):
        driven.go(START + n * T / 24)
        if not driven.drops:
            chatter(driven)
    assert [at for at, _ in driven.drops] == [START + T / 2]


def test_answers_in_their_turn_end_the_silence(driven: Driven) -> None:
    """S1: while earlier requests are answered one by one, a request does not count as unanswered: silence is
    counted from the last answer."""
    for _ in range(12):
        driven.read()
    sent = driven.heard()
    for n, each in enumerate(sent[:6], 1):
        driven.go(START + n * T / 4)
        driven.reply(each)
    driven.go(START + 4 * T)
    assert [at for at, _ in driven.drops] == [START + 6 * T / 4 + T / 2]


def test_an_unanswered_ping_beside_answers_is_no_silence(driven: Driven) -> None:
    """S1: a server that answers requests is not silent, even if it does not answer a ping."""
    driven.go(START + T / 3)
    for n in range(24):
        driven.go(START + T / 3 + n * T / 12)
        driven.read()
        driven.reply(*(sent for sent in driven.heard() if sent.opcode != PING))
    assert driven.drops == []


@pytest.mark.parametrize("owed", ["credentials", "watches"])
def test_a_connection_that_is_never_set_up(owed: str, feed: Feed) -> None:
    """S1, S4: a server that answers requests, but neither our credentials nor the request to set watches
    again, is given up T/2 after the handshake."""
    driven = Driven(feed, credentials=[DIGEST] if owed == "credentials" else [])
    if owed == "watches":
        driven.connect()
        driven.machine.watches.add("/w", Watcher())
        driven.machine.watches.mark_set("/w", WatchState.DATA)
        driven.lose()
    driven.connect()
    driven.heard()
    for n in range(24):
        driven.go(START + n * T / 24)
        if not driven.drops:
            driven.read()
            driven.reply(*(sent for sent in driven.heard() if sent.xid > 0))
    assert [at for at, _ in driven.drops] == [START + T / 2]


def test_a_granted_timeout_sets_the_pace(feed: Feed) -> None:
    """S1: all times derive from the timeout that the server granted, not from the requested one."""
    driven = Driven(feed)
    driven.open()
    driven.accept(timeout=2 * T)
    assert times(driven.go(START + 2 * T, well), PING) == [2 * T / 3, 4 * T / 3, 2 * T]
    assert driven.connects[0].timeout == T


# Something is held


def test_heartbeats_keep_their_pace(driven: Driven) -> None:
    """S1: while anything is held there is a heartbeat exactly every T/6, whatever the other traffic."""
    driven.hold("/lock")
    seen = []
    for n in range(48):
        driven.read()
        seen += driven.go(START + n * T / 24, well)
    assert times(seen, MULTI) == pytest.approx([T / 6 * n for n in range(1, 12)])
    assert {tuple(checked(sent)) for _, sent in seen if sent.opcode == MULTI} == {("/lock",)}
    assert times(seen, PING) == []


def test_heartbeats_end_with_the_hold(driven: Driven) -> None:
    """S3: a hold that was given up causes no heartbeats, and is not notified."""
    holder = driven.hold()
    driven.go(START + T / 2, well)
    driven.machine.unhold(holder)
    seen = driven.go(START + 3 * T, well)
    assert {sent.opcode for _, sent in seen} == {PING}
    driven.lose()
    driven.go(START + 6 * T)
    assert holder.error is None


def test_an_unanswered_heartbeat_ends_the_connection(driven: Driven) -> None:
    """S1: a heartbeat that is unanswered for T/3 ends the connection, even if the server answers pings and
    reads, as the follower of a deposed leader does. The lease has not ended then."""
    driven.hold()
    driven.go(START + T, well)
    beat = driven.now + T / 6
    server = deposed(driven)
    while not driven.drops:
        driven.read()
        driven.go(driven.now + T / 24, server)
    [(dropped, why)] = driven.drops
    assert dropped == pytest.approx(beat + T / 3)
    assert "heartbeat" in why
    assert driven.machine.lease_end() > dropped


def test_the_first_heartbeat_of_a_connection_is_at_once(driven: Driven) -> None:
    """S3: after a reconnect the first heartbeat is sent at once. Its answer proves the session alive as of
    the connect request: the lease lasts until T later, less the lateness."""
    driven.hold()
    driven.lose()
    reconnected = START + T / 2
    driven.go(reconnected)
    driven.connect()
    assert driven.machine.lease_end() == pytest.approx(START + T - LATENESS)
    seen = driven.go(reconnected, well)
    assert times(seen, MULTI) == [T / 2]
    assert driven.machine.lease_end() == pytest.approx(reconnected + T - LATENESS)


def test_a_heartbeat_tells_of_one_node(driven: Driven) -> None:
    """S3: NoNode in a heartbeat loses the hold that it checks, and no other."""
    gone, kept = driven.hold("/gone"), driven.hold("/kept")

    def server(sent: Sent) -> bytes | None:
        if sent.opcode != MULTI or checked(sent) != ["/gone"]:
            return well(sent)
        refused = messages.encode_multi_reply([(-1, errors.NoNode.code, b"")])
        return messages.REPLY_HEADER.pack(sent.xid, 50, 0) + refused

    driven.go(START + T / 6, server)
    assert isinstance(gone.error, errors.LockLost)
    assert "/gone" in str(gone.error)
    assert gone.ended == START + T / 6
    driven.go(START + T, server)
    assert kept.error is None


def test_holds_take_turns(driven: Driven) -> None:
    """S3: each heartbeat checks one hold; the holds take turns."""
    nodes = [f"/n{n}" for n in range(4)]
    for node in nodes:
        driven.hold(node)
    seen = driven.go(START + T, well)
    assert [checked(sent) for _, sent in seen if sent.opcode == MULTI] == [[nodes[n % 4]] for n in range(6)]


# The end of the lease


def test_the_lease_ends_exactly(driven: Driven) -> None:
    """S3: holds are lost at the end of the lease, not earlier. The error says when that was. The session may
    still be resumed: requests and watches continue."""
    holder = driven.hold()
    driven.lose()
    waiting = driven.read()
    end = driven.machine.lease_end()
    before = end - 1e-6
    driven.go(before)
    assert holder.error is None
    assert driven.machine.is_held(holder, before)
    driven.go(end)
    assert driven.now == end
    assert isinstance(holder.error, errors.LockLost)
    assert holder.ended == end
    assert driven.states == [State.CONNECTED, State.SUSPENDED, State.LAPSED]
    driven.connect()
    assert driven.connects[-1].session_id == SESSION
    driven.go(driven.now, well)
    assert waiting.result is not None
    assert driven.states[-1] is State.CONNECTED


def test_a_follower_of_a_deposed_leader_does_not_keep_the_lease(feed: Feed) -> None:
    """S3: a server that resumes the session and answers pings and reads, but no write, proves nothing.
    However often the client reconnects to it, the lease ends at the same time."""
    driven = Driven(feed)
    driven.connect()
    holder = driven.hold()
    driven.go(START + T, well)
    end = driven.machine.lease_end()
    server = deposed(driven)
    while holder.error is None:
        driven.read()
        driven.go(driven.now + T / 24, server)
        if driven.drops:
            driven.drops.clear()
            driven.connect()
        assert driven.machine.lease_end() <= end
    assert holder.ended == end


def test_lease_by_ping_trades_that_away(feed: Feed) -> None:
    """S3: with lease="ping" the same server extends the lease, with a ping every T/6 and no transaction: this
    is the trade-off. A ping that is unanswered for T/3 ends the connection."""
    driven = Driven(feed, lease_by_ping=True)
    driven.connect()
    holder = driven.hold()
    seen = driven.go(START + 5 * T, deposed(driven))
    assert holder.error is None
    assert times(seen, PING) == pytest.approx([T / 6 * n for n in range(1, 31)])
    assert times(seen, MULTI) == []
    driven.go(START + 7 * T, never)
    [(dropped, _)] = driven.drops
    assert dropped == pytest.approx(START + 5 * T + T / 6 + T / 3)
    assert holder.ended == pytest.approx(START + 5 * T + T - LATENESS)


def test_a_ping_of_the_last_connection_is_not_waited_for(feed: Feed) -> None:
    """S1: with lease="ping", too, a heartbeat that was lost with its connection does not count on the next
    one, which begins with one of its own."""
    driven = Driven(feed, lease_by_ping=True)
    driven.connect()
    driven.hold()
    driven.go(START + T / 6)
    driven.lose()
    driven.go(START + T / 6 + T / 2)
    driven.connect()
    seen = driven.go(driven.now + T / 6, well)
    assert times(seen, PING) == pytest.approx([T * 4 / 6, T * 5 / 6])
    assert driven.drops == []


def test_a_longer_timeout_does_not_stretch_old_proofs(driven: Driven) -> None:
    """S3: another server may grant a longer timeout; what was proven before was proven for the shorter
    one."""
    driven.hold()
    end = driven.machine.lease_end()
    driven.lose()
    driven.open()
    driven.accept(SESSION, timeout=3 * T)
    assert driven.machine.lease_end() <= end


def test_a_shorter_timeout_counts_at_once(driven: Driven) -> None:
    """S3: if another server grants a shorter timeout, that server expires sessions by it, so no proof lasts
    longer."""
    holder = driven.hold()
    driven.lose()
    driven.open()
    driven.accept(SESSION, timeout=T / 3)
    assert driven.machine.lease_end() <= START + T / 3
    driven.go(START + T / 3)
    assert holder.error is not None


def test_a_new_session_starts_without_proofs_of_the_old(driven: Driven) -> None:
    """S3: what was proven for one session says nothing about the next, which is proven as of its connect
    request."""
    driven.go(START + T / 6, well)
    driven.lose()
    driven.go(START + 4 * T)
    driven.connect(session_id=8)
    assert driven.machine.lease_end() == pytest.approx(driven.now + T - LATENESS)


# Lateness of the event loop


def tick_late(driven: Driven, late: float) -> None:
    """A timer that fires late, by the fake clock."""
    driven.now += late
    driven.machine.tick(driven.now, driven.now - late)


@pytest.mark.parametrize(
    ("late", "taken"),
    [
        pytest.param(0.0, T / 100, id="none"),
        pytest.param(T / 200, T / 100, id="little"),
        pytest.param(T / 20, T / 20, id="some"),
        pytest.param(T / 2, T / 8, id="much"),
    ],
)
def test_the_lease_is_shorter_by_our_lateness(late: float, taken: float) -> None:
    """S3: the lease ends earlier by how late our event loop has been, but by at least T/100 and at most
    T/8."""
    driven = Driven()
    driven.connect()
    tick_late(driven, late)
    assert driven.machine.lease_end() == pytest.approx(START + T - taken)


def test_lateness_is_forgotten() -> None:
    """S3: one stall does not shorten later leases for ever."""
    driven = Driven()
    driven.connect()
    tick_late(driven, T / 8)
    ends = []
    for _ in range(50):
        tick_late(driven, 0.0)
        ends.append(driven.machine.lease_end())
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(START + T - T / 100)


def test_what_has_lapsed_stays_lapsed() -> None:
    """S9: a hold that was seen to have lapsed is lost, even if the lateness that shortened its lease has
    decayed in the same tick."""
    driven = Driven()
    driven.connect()
    holder = driven.hold()
    tick_late(driven, T / 8)
    driven.now = driven.machine.lease_end()
    assert not driven.machine.is_held(holder, driven.now)
    driven.machine.tick(driven.now, driven.now)
    assert not driven.machine.is_held(holder, driven.now)
    assert isinstance(holder.error, errors.LockLost)


# The first rule of the machine's docstring


def hear_the_answer(driven: Driven) -> None:
    oldest = driven.machine.requests.in_flight[0]
    driven.say_raw(messages.REPLY_HEADER.pack(oldest.xid, 1, 0) + GET_REPLY)


ENTRIES: dict[str, Callable[[Driven], object]] = {
    "received": hear_the_answer,
    "pump": lambda driven: driven.heard(),
    "tick": lambda driven: driven.machine.tick(driven.now),
    "hold": lambda driven: driven.machine.hold(Holder("/new"), driven.now),
    "lost": lambda driven: driven.machine.connection_lost(driven.now, "reset"),
    "close": lambda driven: driven.machine.close(driven.now, driven.read("/close")),
    "end": lambda driven: driven.machine.end(driven.now),
    "advance": lambda driven: driven.machine.advance(driven.now),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_moves_the_clock_first(entry: str, feed: Feed) -> None:
    """S9: whichever entry into the machine is the first after a blocked loop, a lapsed lease is declared
    before anybody is notified of anything else. The error says when the lease ended."""
    driven = Driven(feed)
    driven.connect()
    holder = driven.hold("/mine")
    driven.read("/under-way")
    driven.write("/under-way-too")
    driven.heard()
    driven.write("/waiting")
    end = driven.machine.lease_end()
    driven.now = end + T / 4
    ENTRIES[entry](driven)
    assert driven.log[0] == "lost /mine"
    assert isinstance(holder.error, errors.LockLost)
    assert holder.ended == end


def test_a_new_connection_moves_the_clock_first(driven: Driven) -> None:
    """S9: the same holds for a connection that is made after a blocked loop."""
    holder = driven.hold("/mine")
    driven.lose()
    driven.now += T
    driven.open()
    assert isinstance(holder.error, errors.LockLost)


# The end of the session


def test_the_session_ends_by_our_clock(driven: Driven) -> None:
    """S3: 1.5 T after a server was last heard from, the session is over for us. Requests that only make sense
    in it are rejected. The rest waits for the next session, which is requested without the old one's id."""
    holder = driven.hold()
    driven.go(START + T / 4, well)
    heard = driven.now
    driven.heard()
    driven.lose()
    bound, free = driven.write("/bound", bound_to=SESSION), driven.write("/free")
    driven.go(heard + T * 3 / 2 + T)
    contact = START + T / 6  # when the last heartbeat was answered
    assert driven.states[-2:] == [State.LAPSED, State.EXPIRED]
    assert isinstance(bound.error, errors.SessionExpired)
    assert isinstance(holder.error, errors.LockLost)
    assert not free.answered
    assert driven.machine.last_contact == contact
    driven.connect(session_id=8)
    assert driven.connects[-1].session_id == 0
    assert driven.connects[-1].password == bytes(16)
    assert [path_of(sent) for sent in driven.heard()] == ["/free"]


@pytest.mark.parametrize("margin", [-1e-6, 0.0])
def test_the_session_ends_exactly(margin: float, feed: Feed) -> None:
    """S3: at 1.5 T exactly, not earlier."""
    driven = Driven(feed)
    driven.connect()
    driven.lose()
    driven.go(START + T * 3 / 2 + margin)
    assert (driven.machine.state is State.EXPIRED) is (margin == 0)


def test_a_session_can_be_over_when_its_connection_is(driven: Driven) -> None:
    """S3, S9: if nothing was heard for so long that the session is over, and the loop was blocked meanwhile,
    it is over when the connection is lost: the next connect request does not ask for it."""
    waiting = driven.write("/bound", bound_to=SESSION)
    driven.now += 2 * T
    driven.lose()
    assert driven.machine.state is State.EXPIRED
    assert isinstance(waiting.error, errors.SessionExpired)


def test_an_attempt_is_not_cut_short_by_expiry(driven: Driven) -> None:
    """S3: the server decides, not our clock: while a server is asked to resume the session it is not declared
    over, and if the server resumes it, it continues."""
    driven.lose()
    driven.go(START + T * 1.4)
    driven.open()
    driven.now += T / 3
    driven.machine.advance(driven.now)
    driven.accept(SESSION)
    assert driven.states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]
    assert driven.machine.session_id == SESSION
