"""Elections: one leader at a time, campaigns that continue after each loss, observers, and kazoo's node
names."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from lock_support import Rig, ended, noted

import corral
from client_support import asks_for
from corral.recipes.kit.node_names import LayoutName
from corral.testing import Message, before, committed
from corral.wire.messages import CHILDREN, EXISTS, GET, SET_WATCHES, Operation
from support import PATIENCE, children, settle, turns, until, until_line, within

Connect = Callable[..., corral.Client]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def node_of(held: corral.Held) -> str:
    """The name of the held node."""
    return held.node.rpartition("/")[2]


async def delete(rig: Rig, held: corral.Held) -> None:
    """Another client deletes a leader's node: the fastest way to lose leadership."""
    await rig.other.delete(f"/election/{node_of(held)}")


# One leader at a time, in order


async def test_candidates(zk: corral.Client, other: corral.Client) -> None:
    """L9: the leader and the candidates can be listed in order, with their data, and they lead in that order.
    Nobody leads if there are no candidates."""
    observer = other.election("/election", data=b"observer")
    assert await observer.leader() is None
    assert await observer.candidates() == []
    assert not await observer.locked()
    held = await zk.election("/election", data=b"a").acquire()
    tasks = []
    for place, (client, data) in enumerate([(other, b"b"), (zk, b""), (other, b"d")]):
        tasks.append(asyncio.create_task(client.election("/election", data=data).acquire()))
        await until_line(zk, "/election", place + 2)
    candidates = await observer.candidates()
    assert [each.data for each in candidates] == [b"a", b"b", b"", b"d"]
    assert [each.stat.ephemeral_owner for each in candidates] == [
        zk.session_id,
        other.session_id,
        zk.session_id,
        other.session_id,
    ]
    for place, task in enumerate(tasks):
        leader = await observer.leader()
        assert leader is not None
        assert leader.name == candidates[place].name == node_of(held)
        assert leader.stat.czxid == held.fencing_token
        assert await observer.locked()
        await held.release()
        held = await within(task)
    await held.release()
    assert await observer.leader() is None


@pytest.mark.parametrize("way", ["acquire", "try_acquire", "run"])
async def test_a_leader_does_not_wait_for_itself(zk: corral.Client, way: str) -> None:
    """L7: a task that leads and campaigns again gets an error that says what to do instead, and continues to
    lead."""

    async def lead(held: corral.Held) -> None:
        pytest.fail("led twice")

    election = zk.election("/election")
    async with election as held:
        for again in (election, zk.election("/election")):
            with pytest.raises(corral.AlreadyHeld, match=r"leadership of '/election' already.*resign first"):
                await within(again.run(lead) if way == "run" else getattr(again, way)())
        assert held.is_valid
        assert len(await children(zk, "/election")) == 1


# run: a campaign


class Campaign:
    """A task that runs for leadership, and what it does each time that it leads."""

    def __init__(self, election: corral.Election, *terms: Callable[[corral.Held], Awaitable[object]]) -> None:
        """`terms` are what it does the first time, the second time, and so on."""
        self.led: list[corral.Held] = []
        self._terms = terms
        self._news = asyncio.Event()
        self.task = asyncio.create_task(election.run(self._lead))

    async def _lead(self, held: corral.Held) -> object:
        assert held.is_valid
        self.led.append(held)
        self._news.set()
        return await self._terms[len(self.led) - 1](held)

    async def leads(self, term: int) -> corral.Held:
        """The `Held` of its `term`-th term (from 1), as soon as it leads."""
        async with asyncio.timeout(PATIENCE):
            while len(self.led) < term:
                self._news.clear()
                await self._news.wait()
        return self.led[term - 1]


async def to_the_end(held: corral.Held) -> object:
    """Lead until cancelled."""
    await forever()
    return None


async def for_a_result(held: corral.Held) -> object:
    """Lead, and return."""
    assert held.is_valid
    return "a result"


async def test_run_gives_the_result_and_resigns(zk: corral.Client, other: corral.Client) -> None:
    """run waits for leadership, returns what its function returns, and resigns."""
    theirs = await other.election("/election").acquire()
    campaign = Campaign(zk.election("/election", data=b"us"), for_a_result)
    await until_line(other, "/election", 2)
    assert [each.data for each in await other.election("/election").candidates()] == [b"", b"us"]
    assert campaign.led == []
    await theirs.release()
    assert await within(campaign.task) == "a result"
    assert not campaign.led[0].is_valid
    assert await campaign.led[0].wait_lost() is None
    assert await children(other, "/election") == []


@pytest.mark.parametrize("how", ["lapsed", "expired", "deleted"])
async def test_run_is_a_candidate_again_after_a_loss(
    rig: Rig, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L4: whenever leadership is lost, the function is cancelled; if the lease lapsed, that happens before
    anyone else leads. The client becomes a candidate again, at the end of the line. The function's next
    return value is the result. The loss is logged."""
    caplog.set_level(logging.INFO, "corral.recipes")
    events: list[str] = []

    async def first(held: corral.Held) -> object:
        with noted(events, "told"):
            await forever()
        return "not this"

    async def second(held: corral.Held) -> object:
        events.append("leads again")
        return "this"

    async def theirs() -> None:
        async with rig.other.election("/election"):
            events.append("another leads")
            await until_line(rig.other, "/election", 2)  # ours waits again

    campaign = Campaign(rig.zk.election("/election"), first, second)
    held = await campaign.leads(1)
    session = rig.zk.session_id
    following = asyncio.create_task(theirs())
    await until_line(rig.other, "/election", 2)
    async with rig.losing(how, f"/election/{node_of(held)}"):
        assert isinstance(await within(held.wait_lost()), corral.LockLost)
    assert await within(campaign.task) == "this"
    await within(following)
    assert set(events[:2]) == {"told", "another leads"}
    if how == "lapsed":
        assert events[0] == "told"
    assert events[2:] == ["leads again"]
    again = campaign.led[1]
    assert again.fencing_token > held.fencing_token
    assert (again.session_id != session) == (how == "expired")
    assert [record.levelname for record in caplog.records if "a candidate again" in record.getMessage()] == [
        "INFO"
    ]
    assert "leadership of '/election' was lost" in caplog.text
    assert await children(rig.other, "/election") == []


async def test_run_goes_on_over_many_losses(rig: Rig) -> None:
    """run becomes a candidate again after each loss, however many there are, and never leads twice at
    once."""
    campaign = Campaign(rig.zk.election("/election"), *[to_the_end] * 5, for_a_result)
    for term in range(1, 6):
        held = await campaign.leads(term)
        assert [each.is_valid for each in campaign.led] == [False] * (term - 1) + [True]
        await delete(rig, held)
    assert await within(campaign.task) == "a result"
    assert len({held.node for held in campaign.led}) == 6


async def swallows_it(held: corral.Held) -> object:
    """Return normally despite the cancellation."""
    with suppress(asyncio.CancelledError):
        await forever()
    return "worthless"


async def finds_its_connection_lost(held: corral.Held) -> object:
    try:
        await forever()
    except asyncio.CancelledError:
        raise corral.ConnectionLoss("set", "/x", "in a test") from None
    return None


async def finds_its_session_expired(held: corral.Held) -> object:
    try:
        await forever()
    except asyncio.CancelledError:
        raise corral.SessionExpired("in a test") from None
    return None


async def has_a_child_that_hears_first(held: corral.Held) -> object:
    async def child() -> None:
        error = await held.wait_lost()
        assert error is not None
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await forever()
    return None


async def writes_on(held: corral.Held) -> object:
    try:
        await forever()
    finally:
        async with held.transaction() as tx:
            tx.create("/late")
    return None


@pytest.mark.parametrize(
    "term",
    [
        swallows_it,
        finds_its_connection_lost,
        finds_its_session_expired,
        has_a_child_that_hears_first,
        writes_on,
    ],
    ids=lambda term: term.__name__,
)
async def test_what_says_no_more_than_that_it_is_lost(
    rig: Rig, term: Callable[[corral.Held], Awaitable[object]]
) -> None:
    """L4: a function that returns after it was cancelled, or raises an error that only says that leadership,
    session or connection are lost, has not ended the campaign, and its return value is not the result."""
    campaign = Campaign(rig.zk.election("/election"), term, for_a_result)
    await delete(rig, await campaign.leads(1))
    assert await within(campaign.task) == "a result"
    assert len(campaign.led) == 2
    assert await rig.other.exists("/late") is None


async def test_an_exception_ends_the_campaign(zk: corral.Client, other: corral.Client) -> None:
    """An exception of the function is raised by run unchanged, and run resigns."""
    error = ValueError("mine")

    async def fails(held: corral.Held) -> object:
        raise error

    campaign = Campaign(zk.election("/election"), fails)
    with pytest.raises(ValueError, match="mine") as caught:
        await within(campaign.task)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert await children(other, "/election") == []


@pytest.mark.parametrize(
    "error",
    [
        corral.ConnectionLoss("set", "/x", "in a test"),
        corral.SessionExpired("of another client"),
        corral.LockLost("another lock"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_something_else_that_is_lost(
    zk: corral.Client, other: corral.Client, error: corral.CorralError
) -> None:
    """While it leads, an error about the loss of something else, such as another lock, ends the campaign like
    any other exception: it does not count as the loss of leadership."""

    async def fails(held: corral.Held) -> object:
        raise error

    campaign = Campaign(zk.election("/election"), fails, for_a_result)
    with pytest.raises(type(error)) as caught:
        await within(campaign.task)
    assert caught.value is error
    assert await children(other, "/election") == []


async def test_another_lock_is_lost_while_it_leads(rig: Rig) -> None:
    """The same with a lock that is really lost: its LockLost is raised by run, which has resigned."""
    inner: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()

    async def locks(held: corral.Held) -> object:
        async with rig.zk.lock("/lock") as lock:
            inner.set_result(lock)
            await forever()
        return None

    campaign = Campaign(rig.zk.election("/election"), locks, for_a_result)
    lock = await within(asyncio.shield(inner))
    await rig.other.delete(f"/lock/{node_of(lock)}")
    with pytest.raises(corral.LockLost, match="lock '/lock' was lost"):
        await within(campaign.task)
    assert len(campaign.led) == 1
    assert await children(rig.other, "/election") == []


async def test_an_exception_of_its_own_after_the_loss(rig: Rig) -> None:
    """L4: any other exception that the function raises when it is cancelled ends the campaign, with a
    note."""

    async def fails(held: corral.Held) -> object:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ValueError("mine") from None
        return None

    campaign = Campaign(rig.zk.election("/election"), fails, for_a_result)
    await delete(rig, await campaign.leads(1))
    with pytest.raises(ValueError, match="mine") as caught:
        await within(campaign.task)
    assert any("leadership of '/election' was lost" in note for note in caught.value.__notes__)
    assert len(campaign.led) == 1


async def test_resigning_in_a_campaign(zk: corral.Client, other: corral.Client) -> None:
    """A function that resigns continues to run while another client leads; its return value is the result."""
    resigned = asyncio.Event()
    go_on = asyncio.Event()

    async def resigns(held: corral.Held) -> object:
        await held.release()
        resigned.set()
        await go_on.wait()
        return "after all"

    campaign = Campaign(zk.election("/election"), resigns)
    await within(resigned.wait())
    async with asyncio.timeout(PATIENCE), other.election("/election"):
        go_on.set()
        assert await campaign.task == "after all"
    assert len(campaign.led) == 1


@pytest.mark.parametrize("moment", ["waiting", "leading", "told"])
async def test_cancelling_a_campaign(rig: Rig, moment: str) -> None:
    """L3, L4: if run is cancelled while it waits, while it leads, or while the function cleans up after a
    loss, it ends with CancelledError and is no candidate any more."""
    cleaning, cleaned_up = asyncio.Event(), asyncio.Event()

    async def cleans_up(held: corral.Held) -> object:
        try:
            await forever()
        finally:
            cleaning.set()
            await cleaned_up.wait()
        return None

    async with AsyncExitStack() as stack:
        if moment == "waiting":
            await stack.enter_async_context(rig.other.election("/election"))
        campaign = Campaign(rig.zk.election("/election"), cleans_up, for_a_result)
        if moment == "waiting":
            await until_line(rig.other, "/election", 2)
        else:
            held = await campaign.leads(1)
            if moment == "told":
                await delete(rig, held)
                await within(cleaning.wait())
        campaign.task.cancel()
        await turns()
        cleaned_up.set()
        await ended(campaign.task)
        assert campaign.task.cancelled()
        assert len(campaign.led) == (moment != "waiting")
    await settle(rig.zk)
    assert await children(rig.other, "/election") == []


@pytest.mark.parametrize("moment", ["waiting", "leading"])
async def test_closing_the_client_ends_a_campaign(
    connect: Connect, other: corral.Client, moment: str
) -> None:
    """S5: a campaign ends with ClientClosed when the client is closed, whether it waits or leads. A function
    that leads is cancelled first."""
    told: list[str] = []

    async def first(held: corral.Held) -> object:
        with noted(told, "told"):
            await forever()
        return None

    async with AsyncExitStack() as stack:
        if moment == "waiting":
            await stack.enter_async_context(other.election("/election"))
        async with connect() as zk:
            campaign = Campaign(zk.election("/election"), first, for_a_result)
            if moment == "leading":
                await campaign.leads(1)
            else:
                await until_line(other, "/election", 2)
        with pytest.raises(corral.ClientClosed):
            await within(campaign.task)
    assert told == ["told"] * (moment == "leading")
    assert await children(other, "/election") == []


# leaders: observers


def watches(operation: Operation, path: str) -> Callable[[Message], bool]:
    """Matches reads that set a watch on a path that ends like this."""
    return lambda message: (
        asks_for(operation)(message) and (message.path or "").endswith(path) and message.body[-1] == 1
    )


def registered(zk: corral.Client) -> int:
    """How many paths a client watches."""
    return sum(zk.statistics().watches.values())


class Observer:
    """An observer, which sees one leader after the other."""

    def __init__(self, election: corral.Election) -> None:
        self.leaders = election.leaders()

    async def next(self) -> bytes | None:
        """The next leader's data; None if there is none."""
        leader = await within(anext(self.leaders))
        return None if leader is None else leader.data

    @asynccontextmanager
    async def waiting(self, rig: Rig) -> AsyncIterator[asyncio.Task[bytes | None]]:
        """It waits for the next leader, and its watch is set on the server. Its client is `rig.zk`."""
        task = asyncio.create_task(self.next())
        await until_it_waits(rig)
        assert not task.done()
        yield task


async def until_it_waits(rig: Rig) -> None:
    """Wait until the one observer of `rig.zk` has set its watch on the server."""

    async def armed() -> bool:
        now = rig.zk.statistics()
        return sum(now.watches.values()) == 1 and not now.in_flight and not now.waiting

    await until(armed, "the observer waits")
    await settle(rig.zk)


async def stand(rig: Rig, data: bytes) -> str:
    """A candidate with a node of ours, which leads until that is deleted; returns the node."""
    return await rig.other.create("/election/_c_1-latch-", data, ephemeral=True, sequential=True)


async def test_leaders(rig: Rig) -> None:
    """The current leader is yielded first, then each new one, with its data, and None while there is none. No
    leader is yielded twice. The observer is no candidate."""
    observer = Observer(rig.zk.election("/election", data=b"not a candidate"))
    assert await observer.next() is None  # not even the parent exists
    async with observer.waiting(rig) as news:
        await rig.other.create("/election")
        await until_it_waits(rig)
        assert not news.done()  # still none
        first = await stand(rig, b"first")
        assert await news == b"first"
    async with observer.waiting(rig) as news:
        second = await stand(rig, b"second")
        third = await stand(rig, b"third")
        assert len(await children(rig.other, "/election")) == 3
        await settle(rig.zk)
        assert not news.done()  # the leader has not changed
        await rig.other.delete(first)
        assert await news == b"second"
    async with observer.waiting(rig) as news:
        await rig.other.delete(third)
        await settle(rig.zk)
        assert not news.done()
        await rig.other.delete(second)
        assert await news is None
    async with observer.waiting(rig) as news:
        await rig.other.create("/election/readme")  # no candidate
        await until_it_waits(rig)
        assert not news.done()
        await stand(rig, b"fourth")
        assert await news == b"fourth"


async def test_leaders_of_real_candidates(zk: corral.Client, other: corral.Client) -> None:
    """leaders yields what `leader` returns, the same contender, across resignations and the deletion of the
    parent."""
    observer = other.election("/election").leaders()
    assert await within(anext(observer)) is None
    for data in (b"a", b"b", b""):
        async with zk.election("/election", data=data) as held:
            leader = await within(anext(observer))
            assert leader is not None
            assert (leader.name, leader.data) == (node_of(held), data)
            assert leader.stat.czxid == held.fencing_token
            assert leader.sequence >= 0
        assert await within(anext(observer)) is None
        with suppress(corral.NoNode):  # the server removes it, too
            await zk.delete("/election")


@pytest.mark.parametrize("phase", ["a leader", "no leader"])
async def test_an_observer_asks_nothing_while_nothing_happens(rig: Rig, phase: str) -> None:
    """L1: while the leader stays the same, an observer sends nothing, whoever joins or leaves behind the
    leader. It sends nothing either while there is no leader, whatever other nodes the line has."""
    await rig.other.create("/election/readme", make_parents=True)
    if phase == "a leader":
        await stand(rig, b"leader")
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() == (b"leader" if phase == "a leader" else None)
    async with observer.waiting(rig) as news:
        start = len(rig.tap.messages)
        for _ in range(5):
            if phase == "a leader":
                await rig.other.delete(await stand(rig, b"passing"))
            await settle(rig.zk)
        assert rig.tap.events(start) == []
        assert {operation.name for operation in rig.tap.requests(start)} == {"set"}  # from `settle`
        news.cancel()
        await ended(news)


async def test_a_leader_that_changes_its_data_is_the_same(rig: Rig) -> None:
    """Only another contender is a new leader. If the leader changes its data, nothing is yielded; `leader`
    returns the new data."""
    await rig.other.create("/election")
    node = await stand(rig, b"old")
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() == b"old"
    async with observer.waiting(rig) as news:
        for data in (b"new", b"newer"):
            await rig.other.set(node, data)
            await until_it_waits(rig)
        assert not news.done()
        leader = await rig.zk.election("/election").leader()
        assert leader is not None
        assert leader.data == b"newer"
        await stand(rig, b"next")
        await rig.other.delete(node)
        assert await news == b"next"


async def test_a_slow_observer_gets_the_newest(rig: Rig) -> None:
    """W2: an observer that does not ask misses the leaders in between, and gets the newest."""
    await rig.other.create("/election")
    nodes = [await stand(rig, b"%d" % place) for place in range(5)]
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() == b"0"
    for node in nodes[:3]:
        await rig.other.delete(node)
    assert await observer.next() == b"3"
    for node in nodes[3:]:
        await rig.other.delete(node)
    nodes = [await stand(rig, b"again")]
    assert await observer.next() == b"again"  # it also misses that there was none in between
    await rig.other.delete(nodes[0])
    assert await observer.next() is None


@pytest.mark.parametrize("news_meanwhile", [False, True])
@pytest.mark.parametrize("how", ["cut", "reset", "black hole", "expired"])
@pytest.mark.parametrize("phase", ["a leader", "no leader", "no parent"])
async def test_an_observer_survives(rig: Rig, phase: str, how: str, news_meanwhile: bool) -> None:
    """W3: an observer continues after a lost connection, a silent server and an expired session. It sees what
    changed meanwhile, sees nothing if nothing did, and sees later changes."""
    if phase != "no parent":
        await rig.other.create("/election")
    node = await stand(rig, b"old") if phase == "a leader" else ""
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() == (b"old" if phase == "a leader" else None)
    session = rig.zk.session_id

    async def change() -> None:
        if phase == "no parent":
            await rig.other.create("/election")
        await stand(rig, b"new")
        if node:
            await rig.other.delete(node)

    async with observer.waiting(rig) as news:
        async with rig.away(how):
            if news_meanwhile:
                await change()
        if not news_meanwhile:
            await settle(rig.zk)
            await until_it_waits(rig)
            assert not news.done()
            await change()
        assert await news == b"new"
    assert (rig.zk.session_id != session) == (how == "expired")


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize(
    ("phase", "operation", "is_watch"),
    [
        ("a leader", CHILDREN, False),
        ("a leader", GET, False),
        ("a leader", GET, True),
        ("no leader", CHILDREN, True),
        ("no parent", EXISTS, True),
    ],
    ids=str,
)
async def test_an_observers_lost_message(
    rig: Rig, phase: str, operation: Operation, is_watch: bool, lost: str
) -> None:
    """W3, S2: whichever message of an observer is lost, even twice, it continues."""
    if phase != "no parent":
        await rig.other.create("/election")
    node = await stand(rig, b"old") if phase == "a leader" else ""
    observer = Observer(rig.zk.election("/election"))
    lose = before if lost == "request" else committed

    def concerns(message: Message) -> bool:
        if not asks_for(operation)(message) or "/election" not in (message.path or ""):
            return False
        return (message.body[-1] == 1) == is_watch

    async with rig.proxy.cut_at(lose(match=concerns), reset=True, times=2) as loss:
        assert await observer.next() == (b"old" if node else None)
        async with observer.waiting(rig) as news:
            assert loss.fired.is_set()
            if phase == "no parent":
                await rig.other.create("/election")
            await stand(rig, b"new")
            if node:
                await rig.other.delete(node)
            assert await news == b"new"


async def test_a_loss_as_an_observers_watch_is_set_again(rig: Rig) -> None:
    """W3: a second loss, of the message that sets the watch again, makes no difference."""
    await rig.other.create("/election")
    node = await stand(rig, b"old")
    observer = Observer(rig.zk.election("/election"))
    await observer.next()
    async with observer.waiting(rig) as news:
        async with rig.proxy.cut_at(before(match=asks_for(SET_WATCHES)), reset=True) as loss:
            await rig.proxy.cut()
            await within(loss.fired.wait())
            await settle(rig.zk)
        await rig.other.delete(node)
        assert await news is None


@pytest.mark.parametrize("moment", ["waiting", "not waiting"])
@pytest.mark.parametrize("phase", ["a leader", "no leader", "no parent"])
async def test_an_observer_ends_with_the_client(rig: Rig, phase: str, moment: str) -> None:
    """When the client is closed the loop ends, whether it waits or not; further iterations end at once."""
    if phase != "no parent":
        await rig.other.create("/election")
    if phase == "a leader":
        await stand(rig, b"leader")
    leaders = rig.zk.election("/election").leaders()
    seen: list[corral.Contender | None] = []
    looking = asyncio.Event()

    async def look() -> str:
        async for leader in leaders:
            seen.append(leader)
            if moment == "not waiting":
                looking.set()
                await closed.wait()
        return "ended"

    closed = asyncio.Event()
    task = asyncio.create_task(look())
    if moment == "waiting":
        await until_it_waits(rig)
    else:
        await within(looking.wait())
    await rig.zk.close()
    closed.set()
    assert await within(task) == "ended"
    assert len(seen) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(leaders)


async def test_an_observer_whose_credentials_are_refused(rig: Rig) -> None:
    """For errors that no session can mend, an observer raises the SessionError, again on each call."""
    await rig.other.create("/election")
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() is None
    async with observer.waiting(rig) as news:
        rig.zk.add_auth("nosuchscheme", b"secret")
        with pytest.raises(corral.AuthFailed):
            await news
    with pytest.raises(corral.AuthFailed):
        await observer.next()


async def test_an_observation_is_for_one_reader(rig: Rig) -> None:
    """A second task that reads the same observation gets an error that says so; the first misses nothing."""
    await rig.other.create("/election")
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() is None
    async with observer.waiting(rig) as news:
        with pytest.raises(corral.UsageStateError, match="two tasks read one watch"):
            await within(anext(observer.leaders))
        assert not news.done()
        await stand(rig, b"leader")
        assert await news == b"leader"


async def test_an_observer_belongs_to_one_loop(rig: Rig) -> None:
    """S8: observing outside the client's event loop is an error that says so."""
    leaders = rig.zk.election("/election").leaders()
    step = leaders.__anext__()
    await asyncio.get_running_loop().run_in_executor(None, refused, step)


def refused(step: Awaitable[object]) -> None:
    """Run one step of a coroutine without an event loop."""
    with pytest.raises(corral.UsageStateError, match="event loop"):
        step.__await__().__next__()


async def by_break(leaders: corral.LeaderWatch) -> None:
    async for _ in leaders:
        break


async def by_exception(leaders: corral.LeaderWatch) -> None:
    with suppress(LookupError):
        async for _ in leaders:
            raise LookupError("the body's own")


async def by_cancel_of_the_body(leaders: corral.LeaderWatch) -> None:
    async for _ in leaders:
        await forever()


async def by_cancel_of_the_wait(leaders: corral.LeaderWatch) -> None:
    async for _ in leaders:
        pass


@pytest.mark.parametrize(
    "way",
    [by_break, by_exception, by_cancel_of_the_body, by_cancel_of_the_wait],
    ids=lambda way: way.__name__,
)
@pytest.mark.parametrize("phase", ["a leader", "no leader", "no parent"])
async def test_leaving_an_observation(
    rig: Rig, phase: str, way: Callable[[corral.LeaderWatch], Awaitable[None]]
) -> None:
    """W5: however an observer ends, no watch is left, in the client or on the server: later changes send no
    event."""
    if phase != "no parent":
        await rig.other.create("/election")
    node = await stand(rig, b"old") if phase == "a leader" else ""

    async def run() -> None:
        await way(rig.zk.election("/election").leaders())

    task = asyncio.create_task(run())
    if way is by_cancel_of_the_wait:
        await until_it_waits(rig)
    else:
        await rig.tap.seen(lambda: any("/election" in (message.path or "") for message in rig.tap.messages))
        await settle(rig.zk)
    task.cancel()
    await ended(task)
    await turns()  # the task that reads for all observers ends,
    await settle(rig.zk)  # a read that was in flight has set its watch by now,
    await settle(rig.zk)  # and that watch was removed
    assert registered(rig.zk) == 0
    start = len(rig.tap.messages)
    if phase == "no parent":
        await rig.other.create("/election")
    await stand(rig, b"new")
    if node:
        await rig.other.set(node, b"newer")
        await rig.other.delete(node)
    await rig.other.delete("/election", recursive=True)
    await settle(rig.zk)
    assert rig.tap.events(start) == []


async def test_a_timeout_around_an_observer_loses_nothing(rig: Rig) -> None:
    """S8: a wait for the next leader that times out may be repeated; no leader is missed."""
    await rig.other.create("/election")
    observer = Observer(rig.zk.election("/election"))
    assert await observer.next() is None
    scopes: list[asyncio.Timeout] = []

    async def look() -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            await anext(observer.leaders)

    task = asyncio.create_task(look())
    await until_it_waits(rig)
    scopes[0].reschedule(0)
    with pytest.raises(TimeoutError):
        await within(task)
    await stand(rig, b"leader")
    assert await observer.next() == b"leader"


async def test_several_observers_of_one_client(rig: Rig) -> None:
    """W4, W7: observers, a watch of the leader's node and a candidate of one client share the server's
    watches. Each of them is notified, and one that leaves does not affect the others."""
    await rig.other.create("/election")
    node = await stand(rig, b"leader")
    election = rig.zk.election("/election")
    observers = [Observer(election) for _ in range(3)]
    for observer in observers:
        assert await observer.next() == b"leader"
    candidate = asyncio.create_task(election.acquire())
    await until_line(rig.other, "/election", 2)
    async with rig.zk.watch(node) as events:
        assert (await within(anext(events))).data == b"leader"
        waiting = [asyncio.create_task(observer.next()) for observer in observers]
        watching = asyncio.create_task(anext(events))
        await rig.tap.seen(lambda: sum(map(watches(GET, node), rig.tap.messages)) >= 3)
        await settle(rig.zk)
        # The candidate's, the watch's, and one for all observers.
        assert sum(map(watches(GET, node), rig.tap.messages)) == 3
        waiting[0].cancel()
        await ended(waiting[0])
        await settle(rig.zk)
        await rig.other.delete(node)
        assert not (await within(watching)).exists
        held = await within(candidate)
        assert await within(asyncio.gather(*waiting[1:])) == [b"", b""]
    assert await observers[0].next() == b""
    await held.release()


# Layouts


async def test_kazoos_election_is_its_lock(zk: corral.Client, other: corral.Client) -> None:
    """L8: as in kazoo, an election and a lock with kazoo's layout at one path are one line; those with
    Curator's layout are two."""
    layouts: list[LayoutName] = ["kazoo", "curator"]
    for layout in layouts:
        async with zk.lock("/line", layout=layout):
            leadership = await other.election("/line", layout=layout).try_acquire()
            assert (leadership is None) == (layout == "kazoo")
            if leadership is not None:
                await leadership.release()
        await settle(other)


async def test_other_lines_at_one_path(zk: corral.Client, other: corral.Client) -> None:
    """L7, L8: a lock, an election and a semaphore at one path are three lines: one task may be in each."""
    async with asyncio.timeout(PATIENCE):
        async with (
            zk.lock("/line") as lock,
            zk.election("/line") as leadership,
            zk.semaphore("/line", 1) as lease,
        ):
            assert lock.is_valid
            assert leadership.is_valid
            assert lease.is_valid
            assert (
                len(await other.lock("/line").contenders())
                == len(await other.election("/line").candidates())
                == 1
            )


@pytest.mark.parametrize("layout", ["zookeeper", "", None, ["kazoo"], "Kazoo"])
@pytest.mark.parametrize("kind", ["lock", "election"])
async def test_a_layout_that_is_none(zk: corral.Client, kind: str, layout: object) -> None:
    """An unknown layout is refused; the error lists the known ones, and quotes the requested one."""
    with pytest.raises(corral.UsageValueError, match=f"'curator' or 'kazoo', not {re.escape(repr(layout))}"):
        getattr(zk, kind)("/line", layout=layout)
