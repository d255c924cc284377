"""Where a recipe is, and what the nodes are to have that it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from corral.nodes import Nodes
from corral.session.session import Session
from corral.types import Acl

if TYPE_CHECKING:
    from .holders import Holders

__all__ = ["Site"]


class Site(NamedTuple):
    """Through which client a recipe is used, at which path, and what its nodes have."""

    nodes: Nodes
    session: Session
    full: str
    path: str
    """As the caller named it."""
    holders: Holders
    data: bytes
    acl: tuple[Acl, ...]
