"""A persistent znode with given data, written until that is certain."""

from __future__ import annotations

from corral import errors, paths
from corral.ensure import make_path

from . import ops
from .context import RecipeContext
from .rounds import Rounds

__all__ = ["discard", "store"]


async def store(context: RecipeContext) -> None:
    """Create the persistent znode of a context, or give it the context's data. An ephemeral one is replaced.

    Nothing is repeated blindly: after a lost answer the znode is read again. Of several clients that store at
    once, one wins. On cancel what was sent may be applied.
    """
    session, full, path, data = context.session, context.full, context.path, context.data
    creation = ops.create(full, data, context.acl, ops.PERSISTENT)
    rounds = Rounds()
    while True:
        try:
            stored, stat = await ops.get(session, full, path)
            if stat.ephemeral_owner:
                outcome = await ops.multi(session, [ops.delete(full, stat.version), creation], path)
                if outcome.refused is None:
                    return
                raise outcome.error("register", path)
            if stored != data:
                await ops.send_set(session, full, path, data, stat.version)
            return
        except errors.NoNode as error:
            rounds.again(error)
        except errors.ConnectionLoss as loss:
            if loss.is_hopeless:
                raise
            continue
        except (errors.BadVersion, errors.NodeExists, errors.ReplyError) as error:
            rounds.again(error)
            continue
        try:
            await ops.send_create(session, full, path, data, context.acl, ops.PERSISTENT)
            return
        except errors.NoNode:
            await make_path(
                session, paths.parent_of(full), context.acl, container=True, chroot=context.chroot
            )
        except errors.ConnectionLoss as loss:
            if loss.is_hopeless:
                raise
        except (errors.NodeExists, errors.ReplyError) as error:
            rounds.again(error)


async def discard(context: RecipeContext) -> bool:
    """Delete the znode of a context; whether it was there. A lost answer is resolved by reading it again.

    On cancel it may be deleted.
    """
    session, full, path = context.session, context.full, context.path
    rounds = Rounds()
    found: int | None = None  # the czxid of the znode that is to go
    while True:
        try:
            stat = await ops.exists(session, full, path)
            if found is not None and stat.czxid != found:
                return True  # another was created since
            is_repeated, found = found is not None, stat.czxid
            await ops.send_delete(session, full, path, stat.version, is_patient=is_repeated)
            return True
        except errors.NoNode:
            return found is not None
        except errors.ConnectionLoss as loss:
            if loss.is_hopeless:
                raise
        except (errors.BadVersion, errors.ReplyError) as error:
            rounds.again(error)
