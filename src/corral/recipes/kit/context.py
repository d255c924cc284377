"""What every recipe is made with."""

from __future__ import annotations

from typing import Any, NamedTuple

from corral import paths
from corral.session.session import Session
from corral.types import Acl
from corral.watch.shared import Feeds

from .listing import Lists
from .marks import Marks
from .registry import HeldRegistry

__all__ = ["RecipeContext", "SharedByRecipes"]


class SharedByRecipes:
    """What the recipes of one client share."""

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self.held = HeldRegistry[Any]()  # of `holding.Holding`, which is made with a context
        self.lists = Lists()
        self.marks = Marks()
        self.registered = dict[str, Any]()
        """The `registration.RegisteredNode` of each full path that is kept, or being deleted."""


class RecipeContext(NamedTuple):
    """The client and the path of a recipe, and the data and ACL of the znodes that it creates."""

    session: Session
    chroot: str
    full: str
    path: str
    """The path as errors name it: the caller's."""
    shared: SharedByRecipes
    data: bytes
    acl: tuple[Acl, ...]

    def child(self, name: str, data: bytes = b"") -> RecipeContext:
        """The same for a child of the path."""
        path = paths.named(self.chroot, paths.join(self.path, name))
        return self._replace(full=paths.join(self.full, name), path=path, data=data)
