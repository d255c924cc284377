"""Tasks that resume in the turn of the loop in which their answers are read.

Most of this is about what must not change: a `SessionFuture` is to its users an `asyncio.Future`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import corral
from corral.session.resumption import Resumption


@pytest.fixture
async def resumption() -> Resumption:
    return Resumption(asyncio.get_running_loop())


async def started(*waiting: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Tasks that await these, and have begun to."""
    tasks = [asyncio.create_task(waits_for(each)) for each in waiting]
    await asyncio.sleep(0)
    return tasks


async def waits_for(awaited: Awaitable[Any]) -> Any:
    return await awaited


def reading(resumption: Resumption, *steps: Callable[[], object]) -> None:
    """Do these as the connection reads, outside of any task, and resume the tasks."""

    def read() -> None:
        resumption.is_reading = True
        try:
            for step in steps:
                step()
        finally:
            resumption.resume()

    asyncio.get_running_loop().call_soon(read)


async def test_tasks_resume_in_order_when_all_is_read(resumption: Resumption) -> None:
    """Tasks whose answers are read together resume in the order of the answers, in this turn of the loop, and
    after the last answer."""
    order: list[object] = []

    async def waiter(number: int, future: asyncio.Future[int]) -> None:
        order.append((number, await future))

    futures = [resumption.create_future() for _ in range(3)]
    for number, future in enumerate(futures):
        asyncio.create_task(waiter(number, future))
    await asyncio.sleep(0)
    reading(
        resumption,
        lambda: futures[1].set_result("b"),
        lambda: futures[0].set_result("a"),
        lambda: asyncio.get_running_loop().call_soon(order.append, "the next turn"),
        lambda: futures[2].set_result("c"),
        lambda: order.append("all read"),
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["all read", (1, "b"), (0, "a"), (2, "c"), "the next turn"]


async def test_what_a_resumed_task_resolves_is_for_the_next_turn(resumption: Resumption) -> None:
    """A task is not run inside of another one, and a turn of the loop ends."""
    order: list[str] = []
    first, second = resumption.create_future(), resumption.create_future()

    async def one() -> None:
        await first
        second.set_result(None)
        order.append("one goes on")

    async def two() -> None:
        await second
        order.append("two")

    tasks = [asyncio.create_task(one()), asyncio.create_task(two())]
    await asyncio.sleep(0)
    reading(resumption, lambda: first.set_result(None))
    await asyncio.gather(*tasks)
    assert order == ["one goes on", "two"]


async def test_outside_of_reading_it_is_an_ordinary_future(resumption: Resumption) -> None:
    """What is resolved elsewhere, also after the connection has read something, resumes its task in the next
    turn."""
    reading(resumption)
    await asyncio.sleep(0)
    future = resumption.create_future()
    [task] = await started(future)
    future.set_result(5)
    assert not task.done()
    await asyncio.sleep(0)
    assert task.result() == 5


async def test_a_task_resumes_in_its_own_context(resumption: Resumption) -> None:
    """A task's context variables are its own, whoever resumes it."""
    variable = contextvars.ContextVar("variable", default="the connection's")
    future = resumption.create_future()

    async def waiter() -> str:
        variable.set("the task's")
        await future
        return variable.get()

    task = asyncio.create_task(waiter())
    await asyncio.sleep(0)
    reading(resumption, lambda: future.set_result(None))
    assert await task == "the task's"
    assert variable.get() == "the connection's"


@pytest.mark.parametrize("first", ["answer", "cancel"])
async def test_an_answer_and_a_cancel_that_arrive_together(resumption: Resumption, first: str) -> None:
    """A task that is cancelled in the turn of its answer gets one `CancelledError`, in either order, and the
    answer stays in the future if it was first."""
    future = resumption.create_future()
    [task] = await started(future)

    def answer() -> None:
        if not future.done():
            future.set_result("answer")

    steps: list[Callable[[], object]] = [answer, task.cancel]
    reading(resumption, *(steps if first == "answer" else steps[::-1]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert future.cancelled() is (first == "cancel")


async def test_an_interrupt_in_a_task_keeps_no_other_task(resumption: Resumption) -> None:
    """If a resumed task raises `KeyboardInterrupt`, that reaches the loop, and the tasks behind it resume in
    the next turn."""
    loop = asyncio.get_running_loop()
    futures = [resumption.create_future() for _ in range(3)]

    async def interrupted() -> None:
        await futures[0]
        raise KeyboardInterrupt

    first = asyncio.create_task(interrupted())
    others = await started(*futures[1:])
    raised: list[BaseException] = []

    def read() -> None:
        resumption.is_reading = True
        for future in futures:
            future.set_result("answer")
        try:
            resumption.resume()
        except KeyboardInterrupt as error:
            raised.append(error)

    loop.call_soon(read)
    assert await asyncio.gather(*others) == ["answer", "answer"]
    assert len(raised) == 1
    assert isinstance(first.exception(), KeyboardInterrupt)


async def test_those_that_await_with_a_callback(resumption: Resumption) -> None:
    """`wait`, `gather`, `shield`, `wait_for` and a second task may wait for it, too."""
    future = resumption.create_future()

    async def waits() -> Any:
        done, _ = await asyncio.wait([future])
        return done.pop().result()

    tasks = await started(
        waits(),
        future,
        asyncio.gather(future),
        asyncio.shield(future),
        asyncio.wait_for(asyncio.shield(future), 5),
        future,
    )
    reading(resumption, lambda: future.set_result(1))
    assert await asyncio.gather(*tasks) == [1, 1, [1], 1, 1, 1]


async def test_nothing_of_it_stays(resumption: Resumption) -> None:
    """A resolved future does not refer to its task, so both go without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        future = resumption.create_future()
        [task] = await started(future)
        reading(resumption, functools.partial(future.set_result, None))
        await task
        gone: list[weakref.ref[Any]] = [weakref.ref(task), weakref.ref(future)]
        del task, future
        await asyncio.sleep(0)
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


STEPS = st.lists(
    st.sampled_from(
        [
            "result",
            "exception",
            "cancel",
            "add",
            "add with a context",
            "remove",
            "turn",
            "await",
            "stop awaiting",
        ]
    ),
    max_size=12,
)


@given(steps=STEPS, is_reading=st.booleans())
def test_it_behaves_as_a_future_of_asyncio(steps: list[str], is_reading: bool) -> None:
    """Whatever is done to it, the outcome, the callbacks that are called, and what its task gets are those of
    an `asyncio.Future`."""

    async def outcomes(make: Callable[[Resumption], asyncio.Future[Any]]) -> list[object]:
        resumption = Resumption(asyncio.get_running_loop())
        future, seen, tasks = make(resumption), list[object](), list[asyncio.Task[Any]]()

        def callback(done: asyncio.Future[Any]) -> None:
            seen.append("called" if done is future else "called with something else")

        def step(name: str) -> None:
            try:
                if name == "result":
                    future.set_result("result")
                elif name == "exception":
                    future.set_exception(OSError("exception"))
                elif name == "cancel":
                    seen.append(future.cancel("why"))
                elif name == "add":
                    future.add_done_callback(callback)
                elif name == "add with a context":
                    future.add_done_callback(callback, context=contextvars.copy_context())
                elif name == "remove":
                    seen.append(future.remove_done_callback(callback))
                elif name == "await":
                    tasks.append(asyncio.create_task(waits_for(future)))
                elif name == "stop awaiting" and tasks:
                    tasks[-1].cancel()
            except asyncio.InvalidStateError:
                seen.append("InvalidStateError")

        for name in steps:
            if name == "turn":
                await asyncio.sleep(0)
            elif is_reading:
                reading(resumption, lambda name=name: step(name))  # type: ignore[misc]
                await asyncio.sleep(0)
            else:
                step(name)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        seen.append(future.done() and future.cancelled())
        if future.done() and not future.cancelled():
            seen.append(repr(future.exception() or future.result()))
        for task in tasks:
            if not task.done():
                task.cancel()
        seen += [repr(each) for each in await asyncio.gather(*tasks, return_exceptions=True)]
        return seen

    async def both() -> tuple[list[object], list[object]]:
        return (
            await outcomes(lambda _: asyncio.get_running_loop().create_future()),
            await outcomes(lambda resumption: resumption.create_future()),
        )

    expected, found = asyncio.run(both())
    assert found == expected


async def test_an_operation_goes_on_where_its_answer_is_read(zk: corral.Client) -> None:
    """Whoever awaits an operation goes on below the event loop's callback for the connection."""
    await zk.create("/node", b"data")
    await zk.get("/node")
    frame, callers = sys._getframe(), list[str]()
    while (caller := frame.f_back) is not None:
        callers.append(caller.f_code.co_name)
        frame = caller
    assert "buffer_updated" in callers
