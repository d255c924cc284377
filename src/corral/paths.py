"""The rules of znode paths, and chroots. Checked here, before anything is sent.

The rules are the server's own (ZooKeeper's programmer's guide, "ZooKeeper Data Model"); a path that
passes here is refused by the server only for what it finds at it.
"""

from __future__ import annotations

import functools
import re

from .errors import UsageTypeError, UsageValueError, shown

__all__ = ["join", "parent_of", "resolve", "validate"]

# Control characters, surrogates with the private use area behind them, and the specials block. Characters
# beyond U+FFFF reach the server as surrogates, so it refuses them as well.
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]")
"""What no path may hold."""


def validate(path: str, what: str = "path") -> None:
    """Raise `UsageValueError` or `UsageTypeError` unless `path` is an absolute znode path."""
    if not isinstance(path, str):
        raise UsageTypeError(f"{what} must be a str such as '/app/config', not {shown(path)}")
    if not path.startswith("/"):
        raise UsageValueError(f"{what} {shown(path)} must start with '/', such as '/app/config'")
    if path == "/":
        return
    if path.endswith("/"):
        raise UsageValueError(
            f"{what} {shown(path)} must not end with '/'; write {shown(path.rstrip('/') or '/')}"
        )
    if found := FORBIDDEN.search(path):
        raise UsageValueError(
            f"{what} {shown(path)} holds {found.group()!r} at index {found.start()}, which ZooKeeper forbids"
        )
    for name in path[1:].split("/"):
        if name in ("", ".", ".."):
            raise UsageValueError(
                f"{what} {shown(path)} holds an empty name, '.' or '..'; ZooKeeper has no relative paths"
            )


def join(parent: str, name: str) -> str:
    """The path of a child."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def parent_of(path: str) -> str:
    """The path of the parent; the root is its own."""
    return path.rpartition("/")[0] or "/"


def resolve(chroot: str, path: str) -> str:
    """The full path on the server of a valid `path` below `chroot` ("" for none)."""
    try:
        return _resolve(chroot, path)
    except TypeError:
        validate(path)  # says what is wrong with what is not even hashable
        raise


@functools.lru_cache(maxsize=8192)
def _resolve(chroot: str, path: str) -> str:
    # Cached: services name the same paths again and again, and this stands before every operation.
    validate(path)
    if not chroot:
        return path
    return chroot if path == "/" else chroot + path


def strip(chroot: str, full: str) -> str:
    """The path as the caller of a chrooted client names it; one outside the chroot stays as it is."""
    if full == chroot:
        return "/"
    return full[len(chroot) :] if chroot and full.startswith(chroot + "/") else full
