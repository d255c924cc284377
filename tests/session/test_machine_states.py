"""The table of states: the tests reach every transition, and nothing bypasses the table."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from driven import START, Driven
from scripted import DIGEST, Feed, T

from corral import errors
from corral.session import machine as machine_module
from corral.session.requests import Request
from corral.session.states import TRANSITIONS, Transition
from corral.types import State
from corral.wire import messages

AUTH_REFUSED = messages.REPLY_HEADER.pack(messages.AUTH_XID, 0, -115)
AUTH_TAKEN = messages.REPLY_HEADER.pack(messages.AUTH_XID, 0, 0)
PONG = messages.REPLY_HEADER.pack(messages.PING_XID, 0, 0)

Step = Callable[[Driven], None]

# How to get into each state. Every session has credentials, so that a connection alone does not establish it.


def nowhere(driven: Driven) -> None:
    """A new machine."""


def connected(driven: Driven) -> None:
    driven.connect()
    driven.say_raw(AUTH_TAKEN)


def suspended(driven: Driven) -> None:
    connected(driven)
    driven.lose()


def lapsed(driven: Driven) -> None:
    """Without a connection; the session is not over yet."""
    connected(driven)
    outlive_the_lease(driven)
    driven.lose()


def lapsed_while_up(driven: Driven) -> None:
    connected(driven)
    outlive_the_lease(driven)


def expired(driven: Driven) -> None:
    suspended(driven)
    be_refused(driven)


def auth_failed(driven: Driven) -> None:
    connected(driven)
    have_credentials_refused(driven)


def long_expired(driven: Driven) -> None:
    suspended(driven)
    hear_nothing_for_long(driven)


def closed(driven: Driven) -> None:
    connected(driven)
    end(driven)


def read_only(driven: Driven) -> None:
    suspended(driven)
    find_a_read_only_server(driven)


def read_only_no_longer(driven: Driven) -> None:
    """A server has accepted the session, but not yet the credentials."""
    read_only(driven)
    driven.connect()


def read_only_and_holding(driven: Driven) -> None:
    connected(driven)
    driven.hold()
    driven.lose()
    find_a_read_only_server(driven)
    driven.connect()


# Events of a session


class NoReads:
    """A read-only server of which nobody reads (`machine.Reads`)."""

    server = "a read-only server"

    def take(self, request: Request) -> bool:
        return False

    def present(self, credentials: bytes) -> None:
        pass

    def end(self) -> list[Request]:
        return []


def find_a_read_only_server(driven: Driven) -> None:
    driven.machine.enter_read_only(driven.now, NoReads())


def lose_the_read_only_server(driven: Driven) -> None:
    driven.machine.leave_read_only(driven.now, "lost")


def outlive_the_lease_only(driven: Driven) -> None:
    driven.now = driven.machine.lease_end()
    driven.machine.advance(driven.now)


def lose(driven: Driven) -> None:
    driven.lose()


def fail_to_shake_hands(driven: Driven) -> None:
    driven.open()
    driven.lose()


def reconnect(driven: Driven) -> None:
    if driven.machine.close_reason:
        driven.lose()
    connected(driven)


def hear(driven: Driven) -> None:
    driven.say_raw(PONG)


def outlive_the_lease(driven: Driven) -> None:
    driven.hold()
    driven.now = driven.machine.lease_end()
    driven.machine.advance(driven.now)


def be_refused(driven: Driven) -> None:
    driven.open()
    driven.accept(session_id=0, timeout=0)


def be_refused_in_an_answer(driven: Driven) -> None:
    driven.write()
    sent = driven.heard()[-1]
    driven.answer(sent, code=-112)


def hear_nothing_for_long(driven: Driven) -> None:
    driven.go(driven.now + 2 * T)


def hold_too_late(driven: Driven) -> None:
    """Something is held although the lease has ended: it lapses at once."""
    driven.hold()


def be_refused_before_the_credentials_are_taken(driven: Driven) -> None:
    if driven.machine.close_reason:
        driven.lose()
    driven.connect()
    driven.lose()
    be_refused(driven)


def lose_and_hear_nothing_for_long(driven: Driven) -> None:
    driven.lose()
    hear_nothing_for_long(driven)


def have_credentials_refused(driven: Driven) -> None:
    if driven.machine.close_reason:
        driven.lose()
    if driven.machine.state is State.CONNECTED:
        driven.machine.add_credentials(DIGEST)
    else:
        driven.connect()
    driven.say_raw(AUTH_REFUSED)


def end(driven: Driven) -> None:
    driven.machine.end(driven.now)


WAYS: dict[tuple[State, Transition], list[tuple[Step, Step]]] = {
    (State.SUSPENDED, Transition.ESTABLISHED): [(nowhere, reconnect), (suspended, reconnect)],
    (State.SUSPENDED, Transition.DISCONNECTED): [
        (nowhere, fail_to_shake_hands),
        (suspended, fail_to_shake_hands),
    ],
    (State.SUSPENDED, Transition.LEASE_ENDED): [(suspended, outlive_the_lease)],
    (State.SUSPENDED, Transition.SESSION_ENDED): [
        (suspended, be_refused),
        (suspended, hear_nothing_for_long),
    ],
    (State.SUSPENDED, Transition.CREDENTIALS_REFUSED): [(suspended, have_credentials_refused)],
    (State.SUSPENDED, Transition.CLOSED): [(nowhere, end), (suspended, end)],
    (State.SUSPENDED, Transition.READ_ONLY_FOUND): [
        (nowhere, find_a_read_only_server),
        (suspended, find_a_read_only_server),
    ],
    (State.LAPSED, Transition.READ_ONLY_FOUND): [(lapsed, find_a_read_only_server)],
    (State.EXPIRED, Transition.READ_ONLY_FOUND): [(long_expired, find_a_read_only_server)],
    (State.READ_ONLY, Transition.ESTABLISHED): [(read_only, reconnect)],
    (State.READ_ONLY, Transition.DISCONNECTED): [
        (read_only, lose_the_read_only_server),
        (read_only_no_longer, lose),
    ],
    (State.READ_ONLY, Transition.LEASE_ENDED): [(read_only_and_holding, outlive_the_lease_only)],
    (State.READ_ONLY, Transition.SESSION_ENDED): [(read_only_no_longer, be_refused_in_an_answer)],
    (State.READ_ONLY, Transition.CREDENTIALS_REFUSED): [(read_only, have_credentials_refused)],
    (State.READ_ONLY, Transition.CLOSED): [(read_only, end), (read_only_no_longer, end)],
    (State.CONNECTED, Transition.DISCONNECTED): [(connected, lose)],
    (State.CONNECTED, Transition.LEASE_ENDED): [(connected, outlive_the_lease)],
    (State.CONNECTED, Transition.SESSION_ENDED): [(connected, be_refused_in_an_answer)],
    (State.CONNECTED, Transition.CREDENTIALS_REFUSED): [(connected, have_credentials_refused)],
    (State.CONNECTED, Transition.CLOSED): [(connected, end)],
    (State.LAPSED, Transition.ESTABLISHED): [(lapsed, reconnect), (lapsed_while_up, hear)],
    (State.LAPSED, Transition.DISCONNECTED): [(lapsed_while_up, lose), (lapsed, fail_to_shake_hands)],
    (State.LAPSED, Transition.LEASE_ENDED): [(lapsed, hold_too_late), (lapsed_while_up, hold_too_late)],
    (State.LAPSED, Transition.SESSION_ENDED): [(lapsed, be_refused), (lapsed, hear_nothing_for_long)],
    (State.LAPSED, Transition.CREDENTIALS_REFUSED): [(lapsed, have_credentials_refused)],
    (State.LAPSED, Transition.CLOSED): [(lapsed, end), (lapsed_while_up, end)],
    (State.EXPIRED, Transition.ESTABLISHED): [(expired, reconnect)],
    (State.EXPIRED, Transition.DISCONNECTED): [(expired, lose)],
    (State.EXPIRED, Transition.LEASE_ENDED): [(long_expired, hold_too_late)],
    (State.EXPIRED, Transition.SESSION_ENDED): [(expired, be_refused_before_the_credentials_are_taken)],
    (State.EXPIRED, Transition.CREDENTIALS_REFUSED): [(expired, have_credentials_refused)],
    (State.EXPIRED, Transition.CLOSED): [(expired, end)],
    (State.AUTH_FAILED, Transition.DISCONNECTED): [(auth_failed, lose)],
    (State.AUTH_FAILED, Transition.SESSION_ENDED): [(auth_failed, lose_and_hear_nothing_for_long)],
    (State.AUTH_FAILED, Transition.CLOSED): [(auth_failed, end)],
    (State.CLOSED, Transition.CLOSED): [(closed, end)],
}


def test_each_entry_of_the_table_has_a_way_to_it() -> None:
    """Every transition of the table happens in a scenario below, so the table has no superfluous ones."""
    table = {(state, change) for state, changes in TRANSITIONS.items() for change in changes}
    assert set(WAYS) == table
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(
    ("before", "change", "prepare", "happen"),
    [
        pytest.param(*key, prepare, happen, id=f"{prepare.__name__}-{happen.__name__}")
        for key, ways in WAYS.items()
        for prepare, happen in ways
    ],
)
def test_transition(before: State, change: Transition, prepare: Step, happen: Step, feed: Feed) -> None:
    """Each event changes the state as the table says, with no other change on the way."""
    driven = Driven(feed, credentials=[DIGEST])
    prepare(driven)
    assert driven.machine.state is before
    told = len(driven.states)
    happen(driven)
    after = TRANSITIONS[before][change]
    passed = driven.states[told:]
    assert passed == ([] if after is before else [after])
    assert driven.machine.state is after
    assert all(new in TRANSITIONS[old].values() for old, new in pairwise(driven.states))


@pytest.mark.parametrize("final", [State.CLOSED, State.AUTH_FAILED])
def test_final_states(final: State, feed: Feed) -> None:
    """CLOSED and AUTH_FAILED are final: no event leads out of them, however much time passes, except that a
    client in AUTH_FAILED can be closed. Every request is rejected at once, with an error that says which of
    the two it is."""
    driven = Driven(feed, credentials=[DIGEST])
    auth_failed(driven)
    if final is State.CLOSED:
        end(driven)
    driven.lose()
    hear_nothing_for_long(driven)
    assert driven.machine.state is final
    error = errors.AuthFailed if final is State.AUTH_FAILED else errors.ClientClosed
    assert isinstance(driven.read().error, error)
    assert isinstance(driven.hold().error, error)
    assert driven.deadline() == float("inf") or driven.deadline() > driven.now
    end(driven)
    assert driven.machine.state is State.CLOSED


def test_connected_means_that_the_credentials_are_taken(feed: Feed) -> None:
    """S6: with credentials, a session becomes CONNECTED only after the server has accepted all of them."""
    driven = Driven(feed, credentials=[DIGEST, DIGEST])
    driven.connect()
    assert driven.machine.state is State.SUSPENDED
    driven.say_raw(AUTH_TAKEN)
    assert driven.machine.state is State.SUSPENDED
    driven.say_raw(AUTH_TAKEN)
    assert driven.states == [State.CONNECTED]
    driven.machine.add_credentials(DIGEST)  # adding credentials later changes nothing
    driven.say_raw(AUTH_TAKEN)
    assert driven.states == [State.CONNECTED]


def test_refused_credentials_reach_everybody(feed: Feed) -> None:
    """S6: when a server refuses our credentials, everything that waits, is in flight or is held is notified,
    and the connection is closed."""
    driven = Driven(feed, credentials=[DIGEST])
    connected(driven)
    holder, read, write = driven.hold(), driven.read(), driven.write()
    driven.heard()
    waiting = driven.read("/waiting")
    have_credentials_refused(driven)
    assert {type(each.error) for each in (holder, read, write, waiting)} == {errors.AuthFailed}
    assert driven.machine.close_reason is not None


# The second rule of the machine's docstring


def assignments(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """(function, attribute) for every attribute that is assigned, in any form."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield inside, node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            yield inside, "any"
        yield from assignments(node, inside)


def test_the_state_is_set_in_one_place() -> None:
    """`_change` alone sets the machine's state, except for the initial one in `__init__`."""
    tree = ast.parse(inspect.getsource(machine_module))
    setters = {function for function, attribute in assignments(tree) if attribute in ("state", "any")}
    assert setters == {"__init__", "_change"}


def test_nobody_else_sets_the_state() -> None:
    """No other module of the session assigns a state."""
    folder = Path(machine_module.__file__).parent
    others = [path for path in folder.glob("*.py") if path.name != "machine.py"]
    assert others
    setters = {
        path.name: [
            function
            for function, attribute in assignments(ast.parse(path.read_text()))
            if attribute == "state"
        ]
        for path in others
    }
    assert {name: found for name, found in setters.items() if found} == {}


def test_the_scenarios_start_when_the_clock_does() -> None:
    """The fake clock starts where the scenarios expect it."""
    assert Driven().now == START


def test_the_machine_has_few_attributes() -> None:
    """CPython stores up to 30 attributes of an object in an array whose layout all instances share. With
    more, each attribute access costs a dictionary lookup, and the machine makes dozens for each message."""
    assert len(vars(machine_module.Machine(10.0))) <= 30
