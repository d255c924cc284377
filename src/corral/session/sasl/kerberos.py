"""The SASL mechanism GSSAPI (RFC 4752), which is Kerberos, by the library `gssapi`."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any

from corral import verify
from corral.errors import UsageStateError, UsageValueError
from corral.session import gate
from corral.session.threads import on_a_thread

from .base import Exchange, Mechanism, NoCredentials, Refused

__all__ = ["Kerberos", "KerberosMechanism"]

_TRANSIENT = frozenset((-1765328228, -1765328230, -1765328164, -1765328355))
"""Kerberos' error codes for a KDC that cannot be reached or found, or that is not available."""
_NO_LAYER = 1
"""The bit of an offer, and of the answer to it, for a connection that is neither signed nor encrypted."""


@dataclass(frozen=True, slots=True)
class Kerberos:
    """SASL's GSSAPI, with Kerberos: ``corral.connect(..., sasl=corral.Kerberos())``. It needs
    ``corral[kerberos]``.

    - `service`, `host`: the servers' principal is ``service/host``. By default the host is the name by which
      the connect string calls each server, so names belong there, and not addresses.
    - `principal`: whose tickets to use; by default those of the credentials cache, whoever it belongs to.
    - `ccache`, `keytab`: where credentials are, such as ``"FILE:/run/app.ccache"`` and
      ``"FILE:/etc/app.keytab"``; by default where Kerberos looks for them (``KRB5CCNAME``,
      ``KRB5_CLIENT_KTNAME``). With a keytab the library gets tickets by itself, and new ones in time.

    Client and server prove to each other who they are, on each connection, with the tickets that are there
    then: renewed ones are used on the next connection. A connection outlives its ticket. Tickets that are
    missing or have run out raise `AuthFailed` at the first connect. While there is a session, the client
    tries again, since they may be renewed: it ends with `AuthFailed` only once the session has expired. A KDC
    that cannot be reached counts as a failed attempt. The KDC is asked on a thread, within the time of the
    attempt.

    What follows is neither encrypted nor signed; use TLS for that. Raises `UsageStateError` if the library
    `gssapi` is missing, and `UsageValueError` or `UsageTypeError` for an empty name or a wrong type.
    """

    service: str = "zookeeper"
    host: str | None = None
    principal: str | None = None
    ccache: str | None = None
    keytab: str | None = None

    def __post_init__(self) -> None:
        for name in ("service", "host", "principal", "ccache", "keytab"):
            value = getattr(self, name)
            if value is None and name != "service":
                continue
            if not verify.text(value, f"{name} of Kerberos"):
                raise UsageValueError(f"{name} of Kerberos is empty; leave it out for the default")
        try:
            import gssapi  # noqa: F401
        except ImportError as error:
            raise UsageStateError(
                f"Kerberos needs the library gssapi, which cannot be imported ({error}); "
                "install corral[kerberos]"
            ) from error


class KerberosMechanism(Mechanism):
    """A client that has tickets."""

    name = "GSSAPI"

    def __init__(self, credentials: Kerberos) -> None:
        self._credentials = credentials
        self._under_way: dict[str, asyncio.Future[Exchange]] = {}

    async def begin(self, host: str) -> Exchange:
        host = self._credentials.host or host
        # A step that hangs cannot be stopped, so there is at most one for each host.
        before = self._under_way.get(host)
        if before is not None and not before.done():
            await asyncio.wait([before])
        loop, begin = asyncio.get_running_loop(), functools.partial(_begin, self._credentials, host)
        step = self._under_way[host] = on_a_thread(loop, begin, f"corral ticket for {host}")
        step.add_done_callback(lambda step: step.cancelled() or step.exception())  # perhaps nobody waits
        return await asyncio.shield(step)


def _begin(kerberos: Kerberos, host: str) -> Exchange:
    """Get a ticket for a server, which may ask the KDC, and the first token."""
    import gssapi

    names = gssapi.NameType
    paths = {"ccache": kerberos.ccache, "client_keytab": kerberos.keytab}
    try:
        credentials = gssapi.Credentials(
            name=None
            if kerberos.principal is None
            else gssapi.Name(kerberos.principal, names.kerberos_principal),
            usage="initiate",
            store={key: value for key, value in paths.items() if value is not None} or None,
        )
        context = gssapi.SecurityContext(
            name=gssapi.Name(f"{kerberos.service}@{host}", names.hostbased_service),
            creds=credentials,
            usage="initiate",
            mech=gssapi.MechType.kerberos,
            flags=gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity,
        )
        first = context.step()
    except gssapi.exceptions.GSSError as error:
        why = f"{kerberos.service}@{host}: {_reason(error)}"
        if _signed(error.min_code) in _TRANSIENT:
            raise ConnectionError(f"no ticket for {why}") from None
        raise NoCredentials(why) from None
    return _Exchange(context, first or b"")


class _Exchange(Exchange):
    """Tokens of GSSAPI until the context is established, then the choice of a security layer: none."""

    mechanism = KerberosMechanism.name

    def __init__(self, context: Any, first: bytes) -> None:
        self.first = first
        self._context = context
        self._has_begun = False
        self._is_layer_chosen = False

    def step(self, challenge: bytes | None) -> bytes | None:
        if self._is_layer_chosen:
            if challenge:
                raise gate.Misfit("a challenge of GSSAPI after its end")
            return None
        if challenge is None:
            raise Refused(
                "the server went on without having authenticated us (allowSaslFailedClients)"
                if self._has_begun
                else "the server has no SASL: its JAAS configuration has no section 'Server'"
            )
        if challenge.startswith(b"realm="):
            raise Refused("the server has DIGEST-MD5, not GSSAPI")
        self._has_begun = True
        import gssapi

        try:
            if not self._context.complete:
                return self._context.step(challenge) or b""
            return self._choose_layer(self._context.unwrap(challenge).message)
        except gssapi.exceptions.GSSError as error:
            raise gate.Misfit(f"a challenge of GSSAPI that cannot be used: {_reason(error)}") from None

    def _choose_layer(self, offer: bytes) -> bytes:
        import gssapi

        if not self._context.actual_flags & gssapi.RequirementFlag.mutual_authentication:
            raise gate.Misfit("the server has not proven who it is")
        if len(offer) != 4 or not offer[0] & _NO_LAYER:
            raise gate.Misfit(f"an offer of security layers that we cannot accept ({offer[:8].hex()})")
        self._is_layer_chosen = True
        choice: bytes = self._context.wrap(bytes((_NO_LAYER, 0, 0, 0)), False).message
        return choice


def _signed(code: int) -> int:
    return code - (1 << 32) if code >= 1 << 31 else code


def _reason(error: Any) -> str:
    """What Kerberos says, or GSSAPI if Kerberos says nothing."""
    texts = [text for text in error.get_all_statuses(error.min_code, False) if text != "Success"]
    return "; ".join(texts or error.get_all_statuses(error.maj_code, True))
