"""L4: how the body of ``async with`` learns that its lock is lost, and what the block raises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext, suppress
from typing import Any

import anyio
import pytest
from lock_support import Rig, ended, noted

import corral
from corral.wire.messages import MULTI
from support import PATIENCE, block, children, settle, turns, until, until_line, within

Body = Callable[[corral.Held], Awaitable[object]]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


NOTHING_AROUND = nullcontext()


class Holder:
    """A task that holds a lock and runs a body. Afterwards it can be cancelled, and waits, as any task."""

    def __init__(
        self, lock: corral.Lock, body: Body, around: AbstractContextManager[object] = NOTHING_AROUND
    ) -> None:
        self.entered: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()
        self._lock = lock
        self._body = body
        self._around = around
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> BaseException | None:
        task = asyncio.current_task()
        assert task is not None
        outcome: BaseException | None = None
        try:
            with self._around:
                async with self._lock as held:
                    self.entered.set_result(held)
                    await self._body(held)
        except (Exception, asyncio.CancelledError) as error:
            outcome = error
        if not isinstance(outcome, asyncio.CancelledError):
            assert task.cancelling() == 0
        await turns()  # the next waits are not cancelled
        return outcome

    async def held(self) -> corral.Held:
        """Its `Held`, as soon as it holds."""
        return await within(asyncio.shield(self.entered))

    async def outcome(self) -> BaseException | None:
        """What its `async with` raised or returned."""
        return await within(self.task)


async def delete(rig: Rig, held: corral.Held) -> None:
    """Another client deletes the node of a lock: the fastest way to lose it."""
    await rig.other.delete("/lock/" + held.node.rpartition("/")[2])


async def outcome_of(rig: Rig, body: Body) -> BaseException | None:
    """The outcome of a body whose lock is lost."""
    holder = Holder(rig.zk.lock("/lock"), body)
    await delete(rig, await holder.held())
    return await holder.outcome()


# Every way to lose it, and the order of events


async def test_a_deleted_node_is_noticed_by_the_next_heartbeat(rig: Rig) -> None:
    """L4, S3: if another client deleted the node, the first heartbeat after that finds it missing."""
    held = await rig.zk.lock("/lock").acquire()
    await delete(rig, held)
    start = len(rig.tap.messages)
    await within(held.wait_lost())
    assert rig.tap.requests(start, ours=False).count(MULTI) <= 2  # one may have been in flight before


async def test_a_crowd_of_holds(rig: Rig) -> None:
    """S3, L4: of more locks than one heartbeat can check, those whose nodes are deleted are found, and no
    other is lost."""
    locks = [rig.zk.lock(f"/{number}") for number in range(250)]
    await within(asyncio.gather(*(rig.zk.create(lock.path) for lock in locks)))
    held = await within(asyncio.gather(*(lock.acquire() for lock in locks)))
    victims = {held[number] for number in (3, 4, 120, 249)}
    for number, each in enumerate(held):
        if each in victims:
            await rig.other.delete(f"/{number}/" + each.node.rpartition("/")[2])
    for each in victims:
        assert isinstance(await within(each.wait_lost()), corral.LockLost)
    assert {each for each in held if not each.is_valid} == victims
    await within(asyncio.gather(*(each.release() for each in held)))


async def test_a_short_silence_loses_nothing(rig: Rig) -> None:
    """S3: if a connection is lost and replaced within the lease, the holder loses nothing."""
    async with asyncio.timeout(PATIENCE), rig.zk.lock("/lock") as held:
        for reset in (False, True):
            await rig.proxy.cut(reset=reset)
            await settle(rig.zk)
            assert held.is_valid
    assert await children(rig.other, "/lock") == []


# The outcome, depending on the body


async def waits(held: corral.Held) -> None:
    await forever()


async def returns(held: corral.Held) -> None:
    with suppress(asyncio.CancelledError):
        await forever()


async def returns_later(held: corral.Held) -> None:
    await returns(held)
    await turns()


async def loses_its_connection(held: corral.Held) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise corral.ConnectionLoss("set", "/x", "in a test") from None


async def finds_its_session_expired(held: corral.Held) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise corral.SessionExpired("in a test") from None


async def finds_both_in_a_group(held: corral.Held) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise ExceptionGroup(
            "two", [corral.SessionExpired("one"), ExceptionGroup("deeper", [corral.LockLost("other")])]
        ) from None


async def waits_for_the_loss(held: corral.Held) -> None:
    await held.wait_lost()  # which does not replace the cancellation
    raise AssertionError("not told")


async def fails_in_its_clean_up(held: corral.Held) -> None:
    try:
        await forever()
    finally:
        transaction = held.transaction()
        transaction.create("/late")
        await transaction.commit()


async def has_children(held: corral.Held) -> None:
    told: list[str] = []

    async def child() -> None:
        with noted(told, "child"):
            await forever()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())
    finally:
        assert told == ["child", "child"]


async def has_a_child_that_fails_of_the_loss(held: corral.Held) -> None:
    async def child() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise corral.ConnectionLoss("set", "/x", "in a test") from None

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def has_a_child_that_hears_first(held: corral.Held) -> None:
    async def child() -> None:
        error = await held.wait_lost()
        assert error is not None
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await forever()


async def has_anyio_children(held: corral.Held) -> None:
    told: list[str] = []

    async def child() -> None:
        with noted(told, "child"):
            await anyio.sleep_forever()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()
    finally:
        assert told == ["child"]


async def has_an_anyio_scope(held: corral.Held) -> None:
    with anyio.CancelScope() as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    raise AssertionError("an anyio scope took the loss for its own")


async def has_a_shielded_clean_up(held: corral.Held) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await turns()


async def has_a_long_timeout(held: corral.Held) -> None:
    async with asyncio.timeout(3600):
        await forever()


@pytest.mark.parametrize(
    "body",
    [
        waits,
        returns,
        returns_later,
        loses_its_connection,
        finds_its_session_expired,
        finds_both_in_a_group,
        waits_for_the_loss,
        fails_in_its_clean_up,
        has_children,
        has_a_child_that_fails_of_the_loss,
        has_a_child_that_hears_first,
        has_anyio_children,
        has_an_anyio_scope,
        has_a_shielded_clean_up,
        has_a_long_timeout,
    ],
    ids=lambda body: body.__name__,
)
async def test_a_loss_comes_out_as_lock_lost(rig: Rig, body: Body) -> None:
    """L4: a cancellation by corral, a normal return despite it, and errors that only say that lock, session
    or connection are lost, all become LockLost. Afterwards the task is no longer being cancelled."""
    outcome = await outcome_of(rig, body)
    assert isinstance(outcome, corral.LockLost)
    assert "/lock" in str(outcome)
    assert await rig.other.exists("/late") is None


async def raises_its_own(held: corral.Held) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise ValueError("mine") from None


async def raises_before_it_waits_again(held: corral.Held) -> None:
    try:
        await forever()
    finally:
        raise KeyError("mine")


async def has_a_child_that_raises_its_own(held: corral.Held) -> None:
    async def child() -> None:
        await raises_its_own(held)

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def raises_its_own_beside_the_loss(held: corral.Held) -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise ExceptionGroup("two", [corral.SessionExpired("one"), ValueError("mine")]) from None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (raises_its_own, ValueError),
        (raises_before_it_waits_again, KeyError),
        (has_a_child_that_raises_its_own, ExceptionGroup),
        (raises_its_own_beside_the_loss, ExceptionGroup),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_exception_of_the_bodys_own_stays(rig: Rig, body: Body, kind: type[Exception]) -> None:
    """L4: any other exception of the body is raised unchanged, with a note that the lock was lost."""
    outcome = await outcome_of(rig, body)
    assert type(outcome) is kind
    assert any("lost" in note and "/lock" in note for note in outcome.__notes__)


async def test_a_body_whose_own_error_has_nothing_to_do_with_a_loss(zk: corral.Client) -> None:
    """L4: while the lock is held, an exception of the body is raised unchanged, also if it is one of
    corral's."""
    for error in (ValueError("mine"), corral.ConnectionLoss("set", "/x", "in a test")):
        with pytest.raises(type(error)) as caught:
            async with zk.lock("/lock"):
                raise error
        assert caught.value is error
        assert not hasattr(error, "__notes__")


# The caller's own cancellation


async def lost_as_somebody_strikes(
    rig: Rig,
    how: str,
    body: Body,
    strike: Callable[[Holder], object],
    *,
    strike_first: bool,
    around: AbstractContextManager[object] = NOTHING_AROUND,
) -> Holder:
    """A body loses its lock in the very tick in which `strike` hits it; returns when it has ended. Holders
    that lose their locks together are notified one after the other, in the order in which they acquired. So a
    second holder calls `strike` when it is notified."""

    class Trigger(asyncio.Future[None]):
        """What the second holder waits for."""

        def cancel(self, msg: Any = None) -> bool:
            strike(victim)
            return super().cancel(msg)

    async def wait_for_trigger(held: corral.Held) -> None:
        await Trigger()

    makers = {
        "other": lambda: Holder(rig.zk.lock("/other"), wait_for_trigger),
        "victim": lambda: Holder(rig.zk.lock("/lock"), body, around),
    }
    made: dict[str, Holder] = {}
    for name in makers if strike_first else reversed(makers):
        made[name] = makers[name]()
        await made[name].held()
    other, victim = made["other"], made["victim"]
    async with rig.losing(how):
        assert isinstance(await other.outcome(), corral.LockLost)
        await ended(victim.task)
    assert isinstance(await (await victim.held()).wait_lost(), corral.LockLost)
    return victim


@pytest.mark.parametrize("first", ["the caller", "the loss"])
@pytest.mark.parametrize("how", ["lapsed", "closed"])
async def test_cancelled_by_the_caller_in_the_same_tick(rig: Rig, how: str, first: str) -> None:
    """L4: a body that its caller cancels in the tick in which the lock is lost ends with CancelledError,
    whichever came first."""
    victim = await lost_as_somebody_strikes(
        rig, how, waits, lambda victim: victim.task.cancel(), strike_first=first == "the caller"
    )
    assert isinstance(await victim.outcome(), asyncio.CancelledError)


@pytest.mark.parametrize("first", ["the caller", "the loss"])
async def test_cancelled_by_the_caller_and_lost_later(rig: Rig, first: str) -> None:
    """L4: a body that its caller cancels before or after the loss, while it cleans up after the one that came
    first, ends with CancelledError."""
    cleaning = asyncio.Event()
    told: list[str] = []

    async def body(held: corral.Held) -> None:
        try:
            with noted(told, "first"):
                await forever()
        finally:
            cleaning.set()
            with noted(told, "second"):
                await forever()

    holder = Holder(rig.zk.lock("/lock"), body)
    held = await holder.held()

    async def lose() -> None:
        await delete(rig, held)
        await within(held.wait_lost())

    async def cancel() -> None:
        holder.task.cancel()

    first_act, second_act = (cancel, lose) if first == "the caller" else (lose, cancel)
    await first_act()
    await within(cleaning.wait())
    assert told == ["first"]
    await second_act()
    assert isinstance(await holder.outcome(), asyncio.CancelledError)
    assert told == ["first", "second"]


async def test_cancelled_while_it_leaves(rig: Rig) -> None:
    """L4, L6: if a body is cancelled while leaving waits for the release, it ends at once with
    CancelledError, and the lock is released in the background."""
    leave = asyncio.Event()

    async def body(held: corral.Held) -> None:
        await leave.wait()

    holder = Holder(rig.zk.lock("/lock"), body)
    await holder.held()
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        leave.set()
        await turns()
        holder.task.cancel()
        assert isinstance(await holder.outcome(), asyncio.CancelledError)
    await until_line(rig.other, "/lock", 0)


async def test_a_timeout_inside_the_body(rig: Rig) -> None:
    """L4: a timeout inside the body that expires in the tick of the loss does not take the loss for its own
    cancellation: the block raises LockLost."""
    scopes: list[asyncio.Timeout] = []

    async def body(held: corral.Held) -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            await forever()

    victim = await lost_as_somebody_strikes(
        rig, "closed", body, lambda victim: scopes[0].reschedule(0), strike_first=True
    )
    assert scopes[0].expired()
    assert isinstance(await victim.outcome(), corral.LockLost)


@pytest.mark.parametrize("first", ["neither", "the timeout", "the loss"])
async def test_a_timeout_outside_the_body(rig: Rig, first: str) -> None:
    """L4: a timeout around the lock belongs to the caller: it becomes TimeoutError even if the lock is lost
    while the body cleans up. A loss alone does not become TimeoutError."""
    cleaning = asyncio.Event()
    scopes: list[asyncio.Timeout] = []
    entered: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            async with rig.zk.lock("/lock") as held:
                entered.set_result(held)
                try:
                    await forever()
                finally:
                    cleaning.set()
                    if first != "neither":
                        await forever()

    task = asyncio.create_task(run())
    held = await within(asyncio.shield(entered))
    acts: list[Callable[[], Awaitable[object]]] = [lambda: delete(rig, held)]

    async def expire() -> None:
        scopes[0].reschedule(0)

    if first != "neither":
        acts.insert(0 if first == "the timeout" else 1, expire)
    for act in acts:
        await act()
        await within(cleaning.wait())
    await ended(task)
    assert isinstance(task.exception(), corral.LockLost if first == "neither" else TimeoutError)


@pytest.mark.parametrize("first", ["the scope", "the loss"])
@pytest.mark.parametrize("where", ["inside", "outside"])
async def test_an_anyio_scope_cancelled_in_the_same_tick(rig: Rig, where: str, first: str) -> None:
    """L4: an anyio scope in the body or around the lock that is cancelled in the tick of the loss catches its
    own cancellation and no other: the body raises LockLost, and the scope never a stray CancelledError."""
    scope = anyio.CancelScope()

    async def body(held: corral.Held) -> None:
        with scope if where == "inside" else nullcontext():
            await forever()

    victim = await lost_as_somebody_strikes(
        rig,
        "closed",
        body,
        lambda victim: scope.cancel(),
        strike_first=first == "the scope",
        around=scope if where == "outside" else nullcontext(),
    )
    outcome = await victim.outcome()
    if where == "inside" or first == "the loss":
        assert isinstance(outcome, corral.LockLost)
    else:
        assert outcome is None
        assert scope.cancelled_caught


# Several locks in one task


@pytest.mark.parametrize("how", ["lapsed", "closed"])
@pytest.mark.parametrize("crosswise", [False, True], ids=["in order", "crosswise"])
async def test_nested_locks(rig: Rig, how: str, crosswise: bool) -> None:
    """L4: nested locks that are lost together raise LockLost, whether they are left in order or crosswise.
    Afterwards the task is no longer being cancelled."""
    entered = asyncio.Event()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        held = [await rig.zk.lock(path).acquire() for path in ("/a", "/b", "/c")]
        order = held if crosswise else list(reversed(held))
        for each in held:
            await each.__aenter__()
        error: BaseException | None = None
        try:
            entered.set()
            await forever()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        for each in order:
            try:
                await each.__aexit__(type(error), error, None)
            except BaseException as raised:
                error = raised
        assert isinstance(error, corral.LockLost)
        assert task.cancelling() == 0
        await turns()

    task = asyncio.create_task(run())
    await within(entered.wait())
    async with rig.losing(how):
        await within(task)


@pytest.mark.parametrize("lost", ["/outer", "/inner"])
async def test_one_of_two_nested_locks(rig: Rig, lost: str) -> None:
    """L4: if one of several nested locks is lost, its own block raises LockLost, and the other is
    released."""
    came_out: list[str] = []
    entered = asyncio.Event()
    nodes: dict[str, str] = {}

    async def run() -> None:
        try:
            async with rig.zk.lock("/outer") as outer:
                nodes["/outer"] = outer.node
                try:
                    async with rig.zk.lock("/inner") as inner:
                        nodes["/inner"] = inner.node
                        entered.set()
                        await forever()
                except corral.LockLost:
                    came_out.append("/inner")
                    assert outer.is_valid
                    await settle(rig.zk)
        except corral.LockLost:
            came_out.append("/outer")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await turns()

    task = asyncio.create_task(run())
    await within(entered.wait())
    await rig.other.delete(f"{lost}/{nodes[lost].rpartition('/')[2]}")
    await within(task)
    assert came_out == [lost]
    for path in nodes:
        await until_line(rig.other, path, 0)


@pytest.mark.parametrize("how", ["lapsed", "deleted"])
async def test_an_exit_stack(rig: Rig, how: str) -> None:
    """L4, S8: locks in an AsyncExitStack behave like nested ones."""
    entered: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()
    cleaned_up: list[str] = []

    async def run() -> None:
        async with AsyncExitStack() as stack:
            held = await stack.enter_async_context(rig.zk.lock("/lock"))
            stack.callback(cleaned_up.append, "between")
            await stack.enter_async_context(rig.zk.lock("/second"))
            entered.set_result(held)
            await forever()

    task = asyncio.create_task(run())
    held = await within(asyncio.shield(entered))
    async with rig.losing(how, "/lock/" + held.node.rpartition("/")[2]):
        with pytest.raises(corral.LockLost):
            await within(task)
    assert cleaned_up == ["between"]
    await until_line(rig.other, "/second", 0)


async def test_a_body_that_enters_again_in_its_clean_up(rig: Rig) -> None:
    """L4, L7: a body that acquires the lock again after it was cancelled for the loss leaves each of its own
    holds, and no other's."""
    lock = rig.zk.lock("/lock")
    again: list[corral.Held] = []
    left: list[corral.Held] = []

    async def body(held: corral.Held) -> None:
        try:
            await forever()
        finally:
            async with lock as second:
                assert second.is_valid
                again.append(second)
            assert not second.is_valid
            left.append(second)

    holder = Holder(lock, body)
    held = await holder.held()
    bystander = Holder(lock, waits)  # of the same object, next in line
    await until_line(rig.other, "/lock", 2)
    await delete(rig, held)
    theirs = await bystander.held()
    bystanders_node = theirs.node
    await until_line(rig.other, "/lock", 2)  # the bystander's, and the second of the body
    bystander.task.cancel()
    assert isinstance(await bystander.outcome(), asyncio.CancelledError)
    assert isinstance(await holder.outcome(), corral.LockLost)
    assert left == again
    assert again[0].node != bystanders_node
    assert await again[0].wait_lost() is None
    assert await children(rig.other, "/lock") == []


# Entered in one task, left in another


async def test_the_entering_task_is_done(rig: Rig) -> None:
    """L4, S8: if the task that entered has ended, as that of a fixture may, nobody is cancelled: wait_lost
    and is_valid report the loss, and the exit raises."""
    lock = rig.zk.lock("/lock")
    held = await within(asyncio.create_task(lock.__aenter__()))
    assert held.is_valid
    await delete(rig, held)
    assert isinstance(await within(held.wait_lost()), corral.LockLost)
    assert not held.is_valid
    await turns()
    with pytest.raises(corral.LockLost):
        await lock.__aexit__(None, None, None)


async def test_the_exit_in_another_task_keeps_its_exception(rig: Rig) -> None:
    """L4: if another task leaves, its own cancellation stays a CancelledError, and its own exception is
    unchanged."""
    for error, kind in (
        (asyncio.CancelledError(), None),
        (ValueError("mine"), None),
        (corral.SessionExpired("of the loss"), corral.LockLost),
    ):
        lock = rig.zk.lock("/lock")
        held = await within(asyncio.create_task(lock.__aenter__()))
        await delete(rig, held)
        await within(held.wait_lost())
        if kind is None:
            assert not await lock.__aexit__(type(error), error, None)  # type: ignore[func-returns-value]
        else:
            with pytest.raises(kind):
                await lock.__aexit__(type(error), error, None)


async def test_left_by_one_task_while_the_other_lives(rig: Rig) -> None:
    """L4: the task that entered is cancelled for the loss, and only that one. Another task that leaves, and
    is being cancelled by its own caller, stays cancelled."""
    lock = rig.zk.lock("/lock")
    told: list[str] = []
    entered: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()

    async def enter() -> None:
        entered.set_result(await lock.__aenter__())
        with noted(told, "entered"):
            await forever()

    async def leave() -> None:
        try:
            await forever()
        except asyncio.CancelledError as error:
            await lock.__aexit__(type(error), error, None)
            raise

    enterer, leaver = asyncio.create_task(enter()), asyncio.create_task(leave())
    held = await within(asyncio.shield(entered))
    await delete(rig, held)
    await within(held.wait_lost())
    await ended(enterer)
    assert told == ["entered"]
    assert not leaver.done()
    leaver.cancel()
    await ended(leaver)
    assert leaver.cancelled()
    assert (enterer.cancelled(), enterer.cancelling()) == (True, 1)


async def test_the_body_closes_the_client(rig: Rig) -> None:
    """L4, S5: a body that closes its own client is cancelled as for any loss, and the client is closed."""

    async def body(held: corral.Held) -> None:
        await rig.zk.close()
        raise AssertionError("not told")

    holder = Holder(rig.zk.lock("/lock"), body)
    assert isinstance(await holder.outcome(), corral.LockLost)
    await within(rig.zk.close())
    assert rig.zk.state is corral.State.CLOSED
    assert await children(rig.other, "/lock") == []


# A late event loop


def block_past_the_lease(zk: corral.Client) -> None:
    """Block the event loop for longer than the lease."""
    block(zk.session_timeout * 1.1)


@pytest.fixture
async def short(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """A client with a short session, connected to the server directly. A proxy in our own event loop would be
    blocked, too, and could not have passed anything on."""
    async with connect(session_timeout=2.0) as client:
        yield client


async def test_a_blocked_body_is_told_before_any_answer(short: corral.Client) -> None:
    """S9: a body that blocked the loop for longer than its lease is cancelled before it gets an answer that
    arrived meanwhile. `is_valid` is false from the moment in which the body continues."""
    events: list[str] = []

    async def body(held: corral.Held) -> None:
        answer = asyncio.ensure_future(short.get("/"))
        await turns(2)  # sent, and not yet answered, with eager tasks either
        block_past_the_lease(short)
        events.append(f"valid: {held.is_valid}")
        with noted(events, "told"):
            await answer
            events.append("ran on")

    holder = Holder(short.lock("/lock"), body)
    assert isinstance(await holder.outcome(), corral.LockLost)
    assert events == ["valid: False", "told"]


async def test_a_loss_is_declared_before_any_answer(short: corral.Client) -> None:
    """S9: after the loop was blocked, a task that waits for the loss runs before one that waits for an answer
    that arrived meanwhile, although asyncio handles I/O before timers."""
    events: list[str] = []
    held = await short.lock("/lock").acquire()

    async def lost() -> None:
        await held.wait_lost()
        events.append("lost")

    async def answered() -> None:
        await short.get("/")
        events.append("answer")

    tasks = [asyncio.create_task(answered()), asyncio.create_task(lost())]
    await turns(2)  # sent, and not yet answered, with eager tasks either
    block_past_the_lease(short)
    assert events == []
    await within(asyncio.gather(*tasks))
    assert events == ["lost", "answer"]


async def test_a_blocked_body_that_just_returns(short: corral.Client) -> None:
    """S9, L4: a body that blocks for longer than its lease, and returns before anything can be noticed, does
    not return normally."""

    async def body(held: corral.Held) -> None:
        block_past_the_lease(short)

    holder = Holder(short.lock("/lock"), body)
    assert isinstance(await holder.outcome(), corral.LockLost)


async def test_a_blocked_body_of_nested_locks(short: corral.Client) -> None:
    """S9, L4: the same with two locks, if leaving the inner one is what notices that the outer one is lost:
    one LockLost is raised, and no cancellation hits later code."""

    async def body(held: corral.Held) -> None:
        async with short.lock("/inner"):
            block_past_the_lease(short)

    holder = Holder(short.lock("/lock"), body)
    assert isinstance(await holder.outcome(), corral.LockLost)


async def test_a_loss_noticed_as_another_task_leaves(short: corral.Client) -> None:
    """L4: if another task, on leaving, finds that the lock is lost, nobody is cancelled: the exit raises."""
    lock = short.lock("/lock")
    entered = asyncio.Event()

    async def enter() -> None:
        await lock.__aenter__()
        entered.set()
        await forever()

    task = asyncio.create_task(enter())
    await within(entered.wait())
    block_past_the_lease(short)
    with pytest.raises(corral.LockLost):
        await lock.__aexit__(None, None, None)
    await settle(short)
    assert not task.done()
    assert task.cancelling() == 0
    task.cancel()
    await ended(task)


async def test_a_body_that_outlives_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """L4: a body that continues after the loss is logged while it runs, and its end is logged with how late
    it was."""
    caplog.set_level(logging.INFO, "corral.recipes")
    end = asyncio.Event()

    async def body(held: corral.Held) -> None:
        try:
            await forever()
        finally:
            await end.wait()

    def logged(words: str) -> bool:
        return any(words in record.getMessage() for record in caplog.records)

    holder = Holder(rig.zk.lock("/lock"), body)
    await delete(rig, await holder.held())

    async def warned() -> bool:
        return logged("still runs")

    await until(warned, "a warning about the body that still runs")
    assert not logged("ended")
    end.set()
    assert isinstance(await holder.outcome(), corral.LockLost)
    assert logged("ended")
    assert "/lock" in caplog.text
