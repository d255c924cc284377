"""The members of the ensemble as an async iterator, and the job that has a client follow them."""

from __future__ import annotations

import logging

import anyio

from corral import errors
from corral.members import CONFIG, EnsembleConfig, parse_config
from corral.session import hosts
from corral.types import Event

from .node import NodeReader
from .shared import Feeds

__all__ = ["NO_CONFIG", "EnsembleWatch", "follow_members"]

NO_CONFIG = "the server has no such znode; it requires ZooKeeper 3.5"

logger = logging.getLogger("corral.session")


class EnsembleWatch(NodeReader[EnsembleConfig]):
    """The ensemble's configuration now, then each newer one. For one reader.

    It is a `NodeWatch` of ``/zookeeper/config``, whatever the client's chroot: it shares its server's watch
    and its reads, promises what it promises, and raises what it raises. It also raises `InvalidValue` if the
    data is no configuration, and `Unimplemented` on a server before ZooKeeper 3.5, which has no such znode;
    the next ``anext`` then waits for the next state. Configurations are told apart by their versions, which
    do not change with ``reconfigEnabled=false``.

    **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it continues, across reconnects
    and new sessions.
    """

    _verb = "ensemble.watch"

    def __init__(self, feeds: Feeds) -> None:
        super().__init__(feeds, CONFIG, CONFIG)

    def _item(self, event: Event) -> EnsembleConfig:
        if event.data is None or event.stat is None:
            raise errors.Unimplemented(self._verb, CONFIG, NO_CONFIG)
        return parse_config(event.data, event.stat.version)


async def follow_members(feeds: Feeds, *, secure: bool = False) -> None:
    """Have the session use the servers that are members of its ensemble, until it is over. `secure`: by their
    addresses for TLS.

    What prevents it is logged, once for each reason, and tried again after a session timeout.
    """
    session = feeds.session
    reason = ""
    async with EnsembleWatch(feeds) as configs:
        while True:
            try:
                config = await anext(configs)
                servers = _servers(config, secure=secure)
            except (errors.ClientClosed, errors.AuthFailed, errors.EnsembleBehind):
                return
            except errors.CorralError as error:
                if str(error) != reason:
                    reason = str(error)
                    logger.warning("the ensemble's members are not followed: %s", reason)
                await anyio.sleep(session.timeout)
                continue
            reason = ""
            where = ", ".join(map(str, servers)) or "not told, so the hosts that were given are used"
            logger.info("the ensemble's members (version 0x%x) are %s", config.version, where)
            await session.use_members(servers)


def _servers(config: EnsembleConfig, *, secure: bool) -> tuple[hosts.Address, ...]:
    found = config.hosts(secure=secure)
    return hosts.parse(found).servers if found else ()
