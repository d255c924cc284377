"""The beginning of each connection: the session, the credentials, and the watches that are set again. No I/O.

The connect request is answered before anything else may be sent. With SASL, an exchange of tokens follows:
one of ours, one of the server's, and so on. Until it is over, a server that requires SASL refuses everything
else, pings included; and tokens do not prolong the session. So nothing else is sent before, and the exchange
must be over within the time of the attempt to connect. Credentials and watches come next, in one pipeline,
ahead of all requests. A server *accepts requests* once it has accepted every one of the credentials.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from corral.wire import messages
from corral.wire.messages import ConnectReply, Operation

from . import gate
from .auth import Credentials
from .sasl.base import Exchange, Refused

_NO_PASSWORD = bytes(16)
_INFINITY = float("inf")
_SASL_XID = 0
"""Requests are numbered from 1, so no answer to a token is ever taken for one to a request."""
AUTH_FAILED = -115
AUTH_REQUIRED = -124
"""The server refuses all requests of connections that have not authenticated by a scheme of its choice."""


class Handshake:
    """What a connection begins with, and which answers to it are due. `timeout` is the session timeout to
    request."""

    def __init__(self, timeout: float, credentials: Sequence[Credentials]) -> None:
        self.requested_timeout = timeout
        self.connect_sent = 0.0
        """When the connect request of this connection was sent."""
        self.is_ready = False
        """Whether the server accepts requests."""
        self.server = "the server"
        """The server of this connection, for messages."""
        self.refusal = ""
        """Why our credentials were refused, once they were."""
        self._exchange: Exchange | None = None
        self._token: bytes | None = None  # that is to be sent
        self._is_token_sent = False
        self.is_read_only = False
        """Whether the server of this connection may be a read-only one; once it has answered, whether it
        is."""
        self._password = _NO_PASSWORD
        self._credentials = list(credentials)
        self._credentials_due = 0
        self._watches_due = 0
        self._sent_at = 0.0

    def prepare(self, server: str, exchange: Exchange | None) -> None:
        """The next connection is to `server`, and begins with this SASL exchange, if any."""
        self.server = server
        self._exchange = exchange

    def begin(self, now: float, last_zxid: int, session_id: int) -> bytes:
        """The connect request, as a frame. `session_id` 0 requests a new session."""
        self.connect_sent = now
        self.is_ready = False
        body = messages.encode_connect(
            last_zxid, self.requested_timeout, session_id, self._password, self.is_read_only
        )
        return len(body).to_bytes(4, "big") + body

    def decode_reply(self, view: memoryview, start: int, end: int, session_id: int) -> ConnectReply:
        """The answer to the request. Raises `gate.Misfit` or `DecodeError`."""
        if self.is_read_only:
            gate.check_has_session(view, start, end)
        reply = messages.decode_connect_reply(view, start, end)
        gate.check_connect_reply(reply, self.requested_timeout, session_id)
        self.is_read_only = reply.read_only
        return reply

    def read_for(self, session: Handshake) -> None:
        """Connect to a read-only server, with the credentials of another session, also those to come."""
        self.is_read_only = True
        self._credentials = session._credentials

    def granted(self, password: bytes) -> bool:
        """A server has granted the session that has this password. Returns whether SASL comes next."""
        self._password = password
        self._is_token_sent = False
        self._token = None if self._exchange is None else self._exchange.first
        return self._token is not None

    def take_token(self) -> bytes | None:
        """The frame with the next token, if one is to be sent."""
        token, self._token = self._token, None
        if token is None:
            return None
        self._is_token_sent = True
        return frame(_SASL_XID, messages.SASL.opcode, messages.SASL.request.encode(token))

    def token_answered(self, view: memoryview, start: int, end: int) -> bool:
        """The server has answered a token. Returns whether the exchange is over: the server has accepted us.

        Raises `Refused` if it has not, and `gate.Misfit` or `DecodeError` for what is no answer to it.
        """
        header = messages.REPLY_HEADER
        if end - start < header.size:
            raise gate.Misfit(f"a reply of {end - start} bytes")
        xid, _, code = header.unpack_from(view, start)
        if xid != _SASL_XID or not self._is_token_sent:
            raise gate.Misfit(f"a message with xid {xid}, and no answer to a SASL token")
        self._is_token_sent = False
        if code in (AUTH_FAILED, AUTH_REQUIRED):
            raise Refused(f"error code {code}")
        if code:
            raise gate.Misfit(f"a SASL token is answered with error code {code}")
        assert self._exchange is not None
        self._token = self._exchange.step(messages.SASL.decode_reply(view, start + header.size, end))
        return self._token is None

    def describe_refusal(self, why: str) -> str:
        """A message that says which server has refused which SASL credentials."""
        mechanism = self._exchange.mechanism if self._exchange is not None else "no SASL"
        return (
            f"{self.server} refused our credentials ({mechanism}): {why}; open a client with the right ones"
        )

    def set_up(self, now: float, set_watches: Iterable[tuple[Operation, bytes]]) -> Iterator[bytes]:
        """The frames to send once a server has granted the session, and SASL is over."""
        self._sent_at = now
        self._credentials_due = self._watches_due = 0
        for credentials in self._credentials:
            self._credentials_due += 1
            yield _auth_frame(credentials)
        for op, body in set_watches:
            self._watches_due += 1
            yield frame(messages.SET_WATCHES_XID, op.opcode, body)

    def add_credentials(self, credentials: Credentials, *, is_connected: bool) -> bytes:
        """Present these, too, on each connection to come. Returns the frame that presents them on this
        one."""
        self._credentials.append(credentials)
        self._credentials_due += is_connected
        return _auth_frame(credentials)

    def credentials_sent(self) -> None:
        """More credentials were presented on this connection."""
        self._credentials_due += 1

    def check_ready(self) -> bool:
        """Whether the server accepts requests from now on; false if it did before."""
        if self.is_ready or self._credentials_due:
            return False
        self.is_ready = True
        return True

    def credentials_answered(self) -> None:
        """The server has answered one of the credentials. Raises `gate.Misfit` if none was due."""
        if not self._credentials_due:
            raise gate.Misfit("an answer to credentials that were not sent")
        self._credentials_due -= 1

    def watches_answered(self) -> bool:
        """The server has answered a message that sets watches again. Returns whether this was the last of
        them. Raises `gate.Misfit` if none was due."""
        if not self._watches_due:
            raise gate.Misfit("an answer to a message about watches that was not sent")
        self._watches_due -= 1
        return not self._watches_due

    @property
    def waiting_since(self) -> float:
        """Since when answers have been due; infinite if none is."""
        return _INFINITY if self.is_ready and not self._watches_due else self._sent_at

    @property
    def can_resume(self) -> bool:
        """Whether the session has a password. ClickHouse Keeper gives none, and resumes no session."""
        return any(self._password)

    def forget_session(self) -> None:
        """The session is over: its password is void."""
        self._password = _NO_PASSWORD


def frame(xid: int, opcode: int, body: bytes) -> bytes:
    """A message with an xid of its own, as a frame."""
    return messages.REQUEST_HEADER.pack(len(body) + 8, xid, opcode) + body


def _auth_frame(credentials: Credentials) -> bytes:
    return frame(messages.AUTH_XID, messages.AUTH.opcode, credentials.encode())
