"""The states of following a tree: a table of transitions, applied by one method."""

from __future__ import annotations

import ast
import inspect

import pytest
from watching import first_of

import corral
from corral.watch.tree import follow
from corral.watch.tree.states import TRANSITIONS, TreeState, TreeTransition


def test_the_table_is_whole() -> None:
    """Each state has a row, can be reached, and leads back to IDLE; each transition is used."""
    assert set(TRANSITIONS) == set(TreeState)
    assert {transition for row in TRANSITIONS.values() for transition in row} == set(TreeTransition)
    assert {state for row in TRANSITIONS.values() for state in row.values()} == set(TreeState)
    assert all(row[TreeTransition.STOP] is TreeState.IDLE for row in TRANSITIONS.values())


def test_the_state_is_set_in_one_place() -> None:
    """`_change` alone sets a tree's state, except for the initial one in `__init__`."""
    setters = {
        function.name
        for function in ast.walk(ast.parse(inspect.getsource(follow)))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and target.attr == "_state"
    }
    assert setters == {"__init__", "_change"}


async def test_what_the_table_does_not_have_raises(zk: corral.Client) -> None:
    """A transition that is not in the table is a defect: it raises, and changes nothing."""
    async with zk.watch_tree("/tree") as events:
        await first_of(events)
        feed = events._feed
        assert feed is not None
        assert feed._state is TreeState.LIVE
        for transition in set(TreeTransition) - set(TRANSITIONS[TreeState.LIVE]):
            with pytest.raises(corral.InternalError, match=f"LIVE cannot {transition.name}"):
                feed._change(transition)
        assert feed._state is TreeState.LIVE
