"""The ensemble itself: which servers are its members, and changing that (ZooKeeper 3.5 and later)."""

from __future__ import annotations

from collections.abc import Iterable

from . import errors, verify
from .members import CONFIG, EnsembleConfig, EnsembleMember, parse_config
from .watch.config import NO_CONFIG, EnsembleWatch
from .watch.shared import Feeds
from .wire import messages

__all__ = ["Ensemble"]

_RECONFIGURE = "ensemble.reconfigure"


class Ensemble:
    """The members of the ensemble: ``zk.ensemble``. Making it does no I/O.

    The servers keep their configuration in ``/zookeeper/config``, outside of any chroot. They change it only
    with ``reconfigEnabled=true``; without that, each server tells what its own file says.
    """

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._session = feeds.session

    async def config(self) -> EnsembleConfig:
        """Read the configuration. It needs READ on ``/zookeeper/config``, which everyone has by default.

        The answer comes from the connected server, which may lag behind the leader: call `Client.sync` first
        where that matters. **On cancel** nothing stays behind. **On loss** of the connection the read is sent
        again. Raises `InvalidValue` if the data is no configuration, `Unimplemented` on a server before
        ZooKeeper 3.5, and what every read raises.
        """
        body = messages.encode_get(CONFIG, False)
        try:
            data, stat = await self._session.request(messages.GET, body, CONFIG)
        except errors.NoNode:
            raise errors.Unimplemented("ensemble.config", CONFIG, NO_CONFIG) from None
        return parse_config(data, stat.version)

    def watch(self) -> EnsembleWatch:
        """The configuration now, then each newer one: ``async for config in zk.ensemble.watch():``; see
        `EnsembleWatch`."""
        return EnsembleWatch(self._feeds)

    async def reconfigure(
        self,
        *,
        joining: Iterable[EnsembleMember | str] = (),
        leaving: Iterable[int] = (),
        members: Iterable[EnsembleMember | str] | None = None,
        from_version: int | None = None,
    ) -> EnsembleConfig:
        """Change the members of the ensemble, and return the new configuration.

        - `joining`: servers to add, or members to change. Each needs a client address. They must run and
          follow the leader already: a server does if its own configuration has the members and itself.
        - `leaving`: the ids of members to remove. They go on serving their clients until they are stopped.
        - `members`: all members of the new configuration, in place of `joining` and `leaving`.
        - `from_version`: change only the configuration of this version (`EnsembleConfig.version`).

        A member is an `EnsembleMember`, or its text, such as ``"server.4=zk4:2888:3888;2181"``.

        It needs WRITE on ``/zookeeper/config``, which nobody but the superuser has by default. If the leader
        leaves, the servers elect another one and close the connections of all clients, who see a short
        outage.

        Raises `ReconfigDisabled`, `NoAuth`, `NewConfigNoQuorum` (too few servers of the new configuration
        follow the leader), `ReconfigInProgress`, `BadVersion` (the version is not `from_version`),
        `BadArguments` (such as an address that another member has), and `Unimplemented` on a standalone
        server. None of these has changed anything. Raises `UsageValueError` or `UsageTypeError` before
        anything is sent.

        **On cancel** the wait ends at once, and the change may be carried out. **On loss** of the connection,
        which is likely if the leader leaves, it raises `ConnectionLoss`, and the outcome is unknown. Then
        read `config` after `Client.sync`. If the members are not those that you want, call this again with
        the same `from_version`: the change cannot be applied twice. `BadVersion` then says that it, or
        another one, was applied meanwhile.
        """
        body = messages.RECONFIG.request.encode(
            *verify.reconfiguration(joining, leaving, members), verify.config_version(from_version)
        )
        try:
            data, stat = await self._session.request(messages.RECONFIG, body, CONFIG)
        except errors.BadVersion:
            raise errors.BadVersion(_RECONFIGURE, CONFIG, _version_problem(from_version)) from None
        except errors.BadArguments:
            raise errors.BadArguments(_RECONFIGURE, CONFIG, _ARGUMENTS_PROBLEM) from None
        except errors.Unimplemented:
            raise errors.Unimplemented(_RECONFIGURE, CONFIG, _STANDALONE_PROBLEM) from None
        except errors.ServerError as error:
            raise errors.server_error(error.code, _RECONFIGURE, CONFIG) from None
        try:
            return parse_config(data, stat.version)
        except errors.InvalidValue as error:
            raise errors.ReplyError(_RECONFIGURE, CONFIG, f"the answer does not decode: {error}") from error

    def __repr__(self) -> str:
        return "<Ensemble>"


def _version_problem(from_version: int | None) -> str:
    return f"the version is not 0x{from_version or 0:x}; read config() again, then decide"


_ARGUMENTS_PROBLEM = (
    "the servers do not accept these members: each must have a client address and addresses that no other "
    "member has, and at least two must vote (one with standaloneEnabled=false)"
)
_STANDALONE_PROBLEM = "the server is standalone, or older than ZooKeeper 3.5: it has no members to change"
