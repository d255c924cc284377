"""Which nodes of a subtree are followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from corral import paths

__all__ = ["CannotFollow", "Wanted"]


class CannotFollow(Exception):
    """A tree cannot be followed, for this reason: its readers are told, since the session cannot be."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Wanted:
    """Those up to so many levels below the root that `only` says yes to.

    What is below a node that is not wanted is not wanted either: nobody asks for it. `only` is given paths as
    they are below `chroot`, each by itself; if it raises, that is the reason of a `CannotFollow`.
    """

    root: str
    depth: int | None = None
    only: Callable[[str], bool] | None = None
    chroot: str = ""

    def __call__(self, path: str) -> bool:
        """Whether a node is wanted, of which it is known that it is below the root and that its parent is."""
        if path == self.root:
            return True
        if self.depth is not None and self.level(path) > self.depth:
            return False
        if self.only is None:
            return True
        try:
            return bool(self.only(paths.strip(self.chroot, path)))
        except (StopIteration, StopAsyncIteration) as error:
            # No future takes the one, and the other would end its reader's loop in silence.
            reason = RuntimeError(f"only({path!r}) raised {type(error).__name__}")
            reason.__cause__ = error
            raise CannotFollow(reason) from error
        except Exception as error:
            raise CannotFollow(error) from error

    def lists(self, path: str) -> bool:
        """Whether the children of a node that is wanted may be."""
        return self.depth is None or self.level(path) < self.depth

    def level(self, path: str) -> int:
        """How far below the root."""
        return _slashes(path) - _slashes(self.root)

    def holds(self, path: str) -> bool:
        """Whether a path is in the subtree."""
        return path == self.root or path.startswith(self.root if self.root == "/" else self.root + "/")


def _slashes(path: str) -> int:
    return 0 if path == "/" else path.count("/")
