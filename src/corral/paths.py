"""The rules of znode paths, and chroots. Checked before anything is sent.

The rules are the server's own (ZooKeeper's programmer's guide, "ZooKeeper Data Model"). A server does not
refuse a path that passes them; it can only refuse an operation on the znode there.
"""

from __future__ import annotations

import functools
import re

from .errors import ChrootedPath, UsageTypeError, UsageValueError, shown

__all__ = ["join", "locate", "named", "parent_of", "resolve", "strip", "validate"]

# Control characters, surrogates with the private use area behind them, and the specials block. Characters
# beyond U+FFFF reach the server as surrogates, so it refuses them as well.
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]")
"""Matches a character that no path may contain."""


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
    if forbidden := FORBIDDEN.search(path):
        raise UsageValueError(
            f"{what} {shown(path)} contains {forbidden.group()!r} at index {forbidden.start()}, "
            "which ZooKeeper forbids; leave it out"
        )
    for name in path[1:].split("/"):
        if name in ("", ".", ".."):
            found = f"the name {name!r}" if name else "an empty name"
            raise UsageValueError(
                f"{what} {shown(path)} contains {found}; ZooKeeper has no relative paths, so write it in full"
            )


def join(parent: str, name: str) -> str:
    """The path of a child."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def parent_of(path: str) -> str:
    """The path of the parent; the root is its own parent."""
    return path.rpartition("/")[0] or "/"


def resolve(chroot: str, path: str) -> str:
    """The full path on the server of a valid `path` below `chroot` ("" for none)."""
    return locate(chroot, path)[0]


def locate(chroot: str, path: str) -> tuple[str, str]:
    """The full path on the server of a valid `path`, and `path` as the error of a request names it."""
    try:
        return _locate(chroot, path)
    except TypeError:
        validate(path)  # an unhashable path fails in the cache, before it is validated
        raise


@functools.lru_cache(maxsize=8192)
def _locate(chroot: str, path: str) -> tuple[str, str]:
    # Cached: services use the same paths again and again, and this runs before every operation.
    validate(path)
    if not chroot:
        return path, path
    return chroot if path == "/" else chroot + path, named(chroot, path)


def named(chroot: str, path: str) -> str:
    """`path` as errors name it: it carries the chroot, if there is one."""
    if not chroot:
        return path
    carrier = ChrootedPath(path)
    carrier.chroot = chroot
    return carrier


def strip(chroot: str, full: str) -> str:
    """The path as the caller of a client with a chroot names it. One outside the chroot stays as it is."""
    if full == chroot:
        return "/"
    return full[len(chroot) :] if chroot and full.startswith(chroot + "/") else full
