"""Connecting and reconnecting: which server when, the time for each attempt, and what it means if all reject
us.

The rule for times: *if all addresses but one are silent, that one is found within T of the last contact*, and
at first within `connect_timeout`. A round over all addresses therefore gets what is left of T, and at most
T/3. The addresses share it, however many each name has. Each round that fails doubles the time, for servers
that are slow rather than silent. Look-ups of names get a part of it; one that hangs does not delay the
others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from corral import errors

from . import gate, port_check
from .connection import Connection
from .contact import ContactLog
from .ensemble_probe import probe_zxid
from .hosts import Address, Backoff, Resolver
from .machine import Machine
from .read_only import ReadOnlyFallback
from .sasl.base import Exchange, Mechanism, NoCredentials
from .states import FINAL, ConnectionPhase
from .tls import CLOSED_IN_HANDSHAKE, Tls, explain, open_connection

__all__ = ["Dialer"]

# The time for a round over all addresses: this part of T; at most this part of what is left of T since the
# last contact; at least this part of T; before the first session at most this part of `connect_timeout`.
ROUND_PART = 1 / 3
LEFT_PART = 5 / 6
LEAST_PART = 1 / 20
FIRST_ROUND_PART = 1 / 2
# The part of it that look-ups get before the addresses known so far are tried.
LOOK_UP_PART = 1 / 4
# The part of T that one attempt gets at most.
LONGEST_ATTEMPT = 1 / 2
# A connection that lasted this long, in seconds, was a good one: the next attempt is made at once.
GOOD_CONNECTION = 1.0


class Dialer:
    """Keeps one session connected. `use` is called with each connection before it is attempted."""

    def __init__(
        self,
        machine: Machine,
        resolver: Resolver,
        rng: random.Random,
        *,
        clock: Callable[[], float],
        connect_timeout: float | None,
        tls: Tls | None,
        use: Callable[[Connection], None],
        on_entry: Callable[[], None],
        contact: ContactLog,
        sasl: Mechanism | None = None,
        fallback: ReadOnlyFallback | None = None,
    ) -> None:
        self._machine = machine
        self._resolver = resolver
        self._rng = rng
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._use = use
        self._on_entry = on_entry
        self._contact = contact
        self._sasl = sasl
        self._fallback = fallback
        self._backoff = Backoff(rng)
        self.connection: Connection | None = None
        """The newest connection, from its first attempt on."""
        self._was_connected = False
        self._has_held = True  # whether a connection has lasted since the last session expired
        self._rejection: _Rejection | None = None
        self._is_stopped = False
        self._is_port_checked = False

    def stop(self) -> None:
        """Do not connect again: the next session would be one that nobody uses."""
        self._is_stopped = True

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost. Returns when no server will ever grant a
        session: `Machine.state` or `Machine.fatal_error` says why."""
        last: Address | None = None
        rounds = 0
        turned_away: list[Address] = []
        while True:
            await anyio.sleep(self._backoff.next(turned_away=bool(turned_away)))
            budget = self._budget()
            round_ends = self._clock() + budget
            addresses = await self._resolver.round(budget * LOOK_UP_PART, last=last, with_fallback=rounds > 0)
            bound = self._attempt_bound(round_ends - self._clock(), len(addresses), rounds)
            turned_away = []
            for address in addresses:
                began, session_id = self._clock(), self._machine.session_id
                connection = await self._attempt(address, bound)
                if self._is_over():
                    return
                if session_id and not self._machine.session_id:
                    self._session_expired()
                    break
                if connection is None:
                    if self._resolver.failures.get(str(address)) in (_TURNED_AWAY, gate.TURNED_AWAY):
                        turned_away.append(address)
                    continue
                _raise_unless_network(await asyncio.shield(connection.lost))
                if self._is_over():
                    return
                last, rounds, self._rejection = address, 0, None
                if self._clock() - began >= GOOD_CONNECTION:
                    self._has_held = True
                    self._backoff.reset()
                break
            else:
                rounds += 1
                if not self._was_connected and not self._is_port_checked:
                    await self._check_port(addresses, bound)
                await self._read_meanwhile(turned_away, bound)
                self._contact.unreachable(self._clock(), self._resolver.describe())
                if turned_away:
                    await self._turned_away(self._rng.choice(turned_away), bound)
                    if self._is_over():
                        return
                else:
                    self._rejection = None

    def _budget(self) -> float:
        """Seconds for the first round over all addresses."""
        machine = self._machine
        timeout = machine.timeout
        budget = timeout * ROUND_PART
        if machine.session_id:
            left = machine.last_contact + timeout - self._clock()
            budget = max(min(budget, left * LEFT_PART), timeout * LEAST_PART)
        if not self._was_connected and self._connect_timeout is not None:
            budget = min(budget, self._connect_timeout * FIRST_ROUND_PART)
        return budget

    def _attempt_bound(self, budget: float, addresses: int, rounds: int) -> float:
        """Seconds for one attempt in a round that has `budget` seconds."""
        share = budget / max(1, addresses) * 2.0 ** min(rounds, 10)
        return min(share, self._machine.timeout * LONGEST_ATTEMPT)

    def _session_expired(self) -> None:
        """A server does not know our session. Request a new one at once, unless each session so far expired
        before a connection lasted."""
        if self._has_held:
            self._has_held = False
            self._backoff.reset()

    async def _attempt(self, address: Address, bound: float) -> Connection | None:
        """Connect and shake hands within `bound` seconds. None if that failed; then nothing is left."""
        loop = asyncio.get_running_loop()
        machine = self._machine
        connection = Connection(machine, self._clock, address, self._on_entry, loop)
        self.connection = connection
        self._use(connection)
        contact = machine.last_contact
        self._resolver.trying(address)
        try:
            async with asyncio.timeout(bound):
                await self._connect(machine, connection)
        except NoCredentials as error:
            self._no_credentials(address, str(error))
        except OSError as error:  # a TimeoutError is one
            connection.drop(f"no session within {bound:.2f} s")
            what = "no answer" if self._tls is None or connection.made else "no TLS connection"
            self._resolver.failed(address, str(error) or f"{what} within {bound:.2f} s")
        except BaseException:
            if machine.phase is not ConnectionPhase.UP:
                connection.drop("the client is closed")
            raise
        else:
            if machine.phase is ConnectionPhase.UP:
                self._was_connected = True
                return connection
            ended_by = connection.lost.result() if connection.lost.done() else None
            if isinstance(ended_by, ssl.SSLError):  # TLS 1.3 refuses our certificate after the handshake
                why = explain(ended_by)
                # What it says is lost if the connection is reset before we read it.
                self._resolver.remark(address, _TURNED_AWAY, f"earlier it said: {why}")
            elif machine.last_contact == contact and machine.close_reason is None:
                why = _TURNED_AWAY
            else:
                why = machine.close_reason or "the server closed the connection"
            self._resolver.failed(address, why)
        if connection.made:
            _raise_unless_network(await asyncio.shield(connection.lost))
        return None

    async def _check_port(self, addresses: Sequence[Address], bound: float) -> None:
        """If a server has closed a connection without a word before there was ever a session, find out
        whether it expects TLS, or expects none; once."""
        silent = _TURNED_AWAY if self._tls is None else CLOSED_IN_HANDSHAKE
        for address in addresses:
            if self._resolver.failures.get(str(address)) == silent:
                self._is_port_checked = True
                if self._tls is None and await port_check.is_secure_port(address, bound):
                    self._resolver.remark(address, silent, port_check.SECURE_PORT)
                elif self._tls is not None and await port_check.is_plain_port(address, bound):
                    self._resolver.remark(address, silent, port_check.PLAIN_PORT)
                return

    async def _begin_sasl(self, address: Address) -> Exchange | None:
        if self._sasl is None:
            return None
        return await self._sasl.begin(self._resolver.name_of(address))

    def _no_credentials(self, address: Address, why: str) -> None:
        """Our own credentials are missing or have expired. While the session lives they may still be renewed
        in time, and nothing is lost. Without a session there is nothing to wait for."""
        self._resolver.failed(address, why)
        if not self._machine.session_id:
            mechanism = "SASL" if self._sasl is None else self._sasl.name
            self._machine.refuse_credentials(
                self._clock(), f"no credentials for {address} ({mechanism}): {why}"
            )

    async def _connect(self, machine: Machine, connection: Connection) -> None:
        """Open a connection of a machine, and wait until the handshake has succeeded or failed."""
        address = connection.address
        machine.prepare(str(address), await self._begin_sasl(address))
        try:
            await open_connection(connection, address, self._tls, self._resolver.name_of(address))
        except BaseException:
            connection.abandon()
            raise
        await asyncio.shield(connection.established)

    async def _read_meanwhile(self, turned_away: list[Address], bound: float) -> None:
        """No server takes the session. Have one of those that turned us away answer reads meanwhile, if it is
        a read-only server and the user wants that. Each gets `bound` seconds."""
        if self._fallback is None:
            return
        for address in turned_away:
            if self._machine.reads is not None or self._machine.closing or self._is_over():
                return
            try:
                async with asyncio.timeout(bound):
                    failure = await self._fallback.visit(address, self._connect)
            except (OSError, NoCredentials) as error:
                failure = str(error) or f"no answer within {bound:.2f} s"
            if failure is not None:
                self._resolver.failed(address, f"{_TURNED_AWAY}; to read only: {failure}")

    async def _turned_away(self, address: Address, bound: float) -> None:
        """Detect servers that reject us because our last zxid is newer than theirs: they would do so for
        ever. Servers without a leader, or with too many clients, reject everybody in the same way, for a
        while.

        A new session is a transaction. If one that begins now has an older zxid than ours, what we have seen
        was undone, or was never true.
        """
        machine = self._machine
        now, newest = self._clock(), machine.zxids.last
        rejection = self._rejection = self._rejection or _Rejection(now)
        if now - rejection.since <= machine.timeout or not newest:
            return
        if rejection.zxid is None:
            with contextlib.suppress(OSError, NoCredentials):
                async with asyncio.timeout(bound):
                    exchange = await self._begin_sasl(address)
                rejection.zxid = await probe_zxid(
                    address.host,
                    address.port,
                    exchange=exchange,
                    limit=bound,
                    tls=self._tls,
                    server_name=self._resolver.name_of(address),
                )
        if rejection.zxid is None:
            return
        if rejection.zxid >= newest or machine.zxids.disown(rejection.zxid):
            self._rejection = None  # the server will accept us
            return
        machine.fatal_error = errors.EnsembleBehind(
            f"{address} turns us away, and is at transaction 0x{rejection.zxid:x}, but we have seen "
            f"0x{newest:x}: the ensemble was restored from a backup or wiped; open a new client"
        )
        machine.end(self._clock())

    def _is_over(self) -> bool:
        """Whether there will be no session any more."""
        machine = self._machine
        is_final = machine.fatal_error is not None or machine.state in FINAL
        return is_final or self._is_stopped


@dataclass
class _Rejection:
    """Servers accept the connection and close it without an answer, round after round."""

    since: float
    zxid: int | None = None
    """The zxid of a new session, which a client that has seen nothing was granted."""


def _raise_unless_network(ended_by: BaseException | None) -> None:
    """A connection is ended by the network, or by a defect of ours that must reach the supervisor."""
    if ended_by is not None and not isinstance(ended_by, OSError):
        raise ended_by


_TURNED_AWAY = "the server took the connection and closed it without a word"
