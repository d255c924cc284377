"""Workers that watch: their cycle ends once the lies are over and they have seen the last write."""

from __future__ import annotations

import asyncio

from fuzz_checks import Told, is_contender, is_raw_event
from fuzz_workers import LAST, WATCHED, Cycle, Stage

import corral

LAST_NAME = "last"
POLL = 0.05
"""Seconds between two checks of a cache."""


async def watching_node(stage: Stage) -> None:
    told = Told(stage.checks, WATCHED)
    async for event in stage.zk.watch(WATCHED):
        told.take(event, is_true=stage.is_true())
        if stage.is_over() and event.data == LAST:
            return


async def watching_children(stage: Stage) -> None:
    told = Told(stage.checks, WATCHED)
    async for event in stage.zk.watch_children(WATCHED):
        told.take(event, is_true=stage.is_true())
        if stage.is_over() and LAST_NAME in event.children:
            return


async def watching_tree(stage: Stage) -> None:
    told = Told(stage.checks, WATCHED)
    seen = set[str]()
    async for event in stage.zk.watch_tree(WATCHED):
        told.take(event, below=True, is_true=stage.is_true())
        if event.data == LAST:
            seen.add(event.path)
        if stage.is_over() and {WATCHED, f"{WATCHED}/{LAST_NAME}"} <= seen:
            return


async def watching_some(stage: Stage) -> None:
    """With a filter, and no deeper than the children."""
    told = Told(stage.checks, WATCHED)
    async for event in stage.zk.watch_tree(WATCHED, depth=1, only=lambda path: not path.endswith("1")):
        told.take(event, below=True, is_true=stage.is_true())
        if stage.is_over() and event.path.endswith(LAST_NAME) and event.data == LAST:
            return


async def watching_raw(stage: Stage) -> None:
    recursive = stage.rng.random() < 0.5
    async for event in stage.zk.watch_raw(WATCHED, recursive=recursive):
        stage.checks.require(is_raw_event(event), "a raw event of another shape", event)
        if stage.is_over():
            return


async def caching(stage: Stage) -> None:
    async with stage.zk.cache(WATCHED) as cache:
        while True:
            for path, node in tuple(cache.items()):
                fits = isinstance(path, str) and isinstance(node, corral.Znode)
                stage.checks.require(fits, "a node in a cache of another shape", (path, node))
            last = cache.get(f"{WATCHED}/{LAST_NAME}")
            if (
                stage.is_over()
                and last is not None
                and last.data == LAST
                and LAST_NAME in cache.children(WATCHED)
            ):
                return
            await asyncio.sleep(POLL)


async def waiting(stage: Stage) -> None:
    if not stage.is_over():
        await stage.zk.wait_children(WATCHED, stage.rng.choice((1, 2)))
        await stage.pause()
    await stage.zk.wait_present(f"{WATCHED}/{LAST_NAME}")
    event = await stage.zk.wait_until(WATCHED, lambda event: event.data == LAST)
    stage.checks.require(event.data == LAST, "wait_until gave another event", event)


async def following_leaders(stage: Stage) -> None:
    async for leader in stage.zk.election("/lines/election").leaders():
        fits = leader is None or is_contender(leader)
        stage.checks.require(fits, "a leader of another shape", leader)
        if stage.is_over():
            return


async def following_states(stage: Stage) -> None:
    async for state in stage.zk.states():
        stage.checks.require(isinstance(state, corral.State), "a state of another shape", state)
        if stage.is_over() and state is corral.State.CONNECTED:
            return


WATCHERS: dict[str, Cycle] = {
    "watching_node": watching_node,
    "watching_children": watching_children,
    "watching_tree": watching_tree,
    "watching_some": watching_some,
    "watching_raw": watching_raw,
    "caching": caching,
    "waiting": waiting,
    "following_leaders": following_leaders,
    "following_states": following_states,
}
