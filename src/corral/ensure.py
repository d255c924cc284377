"""Creating a znode together with its missing parents."""

from __future__ import annotations

import asyncio

from . import errors, paths, verify
from .session.session import Session
from .types import Acl
from .wire import messages

__all__ = ["ROUNDS", "make_path"]

ROUNDS = 16
"""How often parents are created that other clients delete again, before `NoNode` is raised."""


async def make_path(
    session: Session, full: str, acl: tuple[Acl, ...], *, container: bool = False, chroot: str = ""
) -> None:
    """Create the znode at a full path and its parents, where they are missing: persistent (or containers) and
    empty. Errors name paths below `chroot`; for an ancestor of the chroot they name "/" and have a note.

    All requests are sent together: the server carries out a session's requests in order. On cancel, those
    that were sent may be carried out. On loss of the connection each is sent again, since creating a znode
    that exists changes nothing; raises `ConnectionLoss` after `ConnectionLoss.MOST_LOSSES` connections in a
    row broke on one. Raises `NoNode` if other clients deleted a parent in each of `ROUNDS` rounds.
    """
    if full == "/":
        return
    op, flags = (messages.CREATE_CONTAINER, verify.CONTAINER) if container else (messages.CREATE, 0)
    names = full[1:].split("/")
    below = ["/" + "/".join(names[: count + 1]) for count in range(len(names))]
    bodies = [messages.encode_create(path, b"", acl, flags) for path in below]
    if len(bodies[-1]) > session.max_body:  # the longest: refuse it before any of them is sent
        path = paths.strip(chroot, full)
        raise errors.FrameTooLarge(op.name, path, len(bodies[-1]) + 8, session.max_body + 8)
    for _ in range(ROUNDS):
        answers = await asyncio.gather(
            *(session.ask(op, body, _named(chroot, path)) for path, body in zip(below, bodies, strict=True)),
            return_exceptions=True,
        )
        last = answers[-1]
        if not isinstance(last, BaseException) or isinstance(last, errors.NodeExists):
            return
        if isinstance(last, errors.InvalidAcl):
            raise last  # the list is refused for each of them alike, those that exist included
        # An ancestor that we may not create may exist, so its refusal counts only if the last create failed.
        for path, answer in zip(below, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(
                answer, errors.NodeExists | errors.NoNode
            ):
                if chroot.startswith(f"{path}/"):
                    answer.add_note(f"the ancestor {path!r} of the chroot {chroot!r} could not be created")
                raise answer
        # All that is left is NoNode: another client has deleted an ancestor meanwhile.
    problem = f"other clients kept deleting its parents for {ROUNDS} rounds; stop them, then create it"
    raise errors.NoNode(op.name, paths.strip(chroot, full), problem)


def _named(chroot: str, path: str) -> str:
    """The path as errors name it: below the chroot, and "/" for an ancestor of the chroot."""
    return "/" if chroot.startswith(f"{path}/") else paths.strip(chroot, path)
