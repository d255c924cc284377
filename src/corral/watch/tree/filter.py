"""Which nodes of a subtree belong to a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from corral import paths

__all__ = ["TreeFilter", "TreeFilterError"]


class TreeFilterError(Exception):
    """The user's `only` has raised `reason`. The feed raises `reason` in the readers of the tree: raised in
    the session, which calls the feed, it would be taken for a defect."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class TreeFilter:
    """Accepts nodes at most `depth` levels below `root` for which `only` returns true.

    A node whose parent is not accepted is not accepted either: nobody calls the filter with it. `only` is
    called with one path at a time, as seen below `chroot`.
    """

    root: str
    depth: int | None = None
    only: Callable[[str], bool] | None = None
    chroot: str = ""

    def accepts(self, path: str) -> bool:
        """Whether the tree has the node, given that it is below the root and that the tree has its parent."""
        if path == self.root:
            return True
        if self.depth is not None and self.level(path) > self.depth:
            return False
        if self.only is None:
            return True
        try:
            return bool(self.only(paths.strip(self.chroot, path)))
        except (StopIteration, StopAsyncIteration) as error:
            # A future cannot carry the first, and the second would end the reader's loop without an error.
            reason = RuntimeError(f"only({path!r}) raised {type(error).__name__}")
            reason.__cause__ = error
            raise TreeFilterError(reason) from error
        except Exception as error:
            raise TreeFilterError(error) from error

    def accepts_children(self, path: str) -> bool:
        """Whether children of a node of the tree can belong to the tree."""
        return self.depth is None or self.level(path) < self.depth

    def level(self, path: str) -> int:
        """How many levels a path is below the root."""
        return _slashes(path) - _slashes(self.root)

    def contains(self, path: str) -> bool:
        """Whether a path is in the subtree of `root`."""
        return path == self.root or path.startswith(self.root if self.root == "/" else self.root + "/")


def _slashes(path: str) -> int:
    return 0 if path == "/" else path.count("/")
