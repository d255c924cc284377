"""The lease clock: until when a holder may trust its session (S3). Pure arithmetic on times passed in.

Claim: *the server does not expire the session before the lease ends.* T is the session timeout.

**The server** (`ExpiryQueue`, `SessionTrackerImpl`, `Learner.ping` and `LearnerHandler` in ZooKeeper):

1. The leader expires a session T after it last *touched* it, or later, since it rounds up to its tick.
2. The leader touches a session of its own clients with each request. It learns of the sessions of a
   follower's clients only from the follower's replies to its pings: each reply lists the sessions that sent
   something since the previous one. The leader pings every half tick. Receiving a write from a follower
   does not touch the session.
3. A new leader gives every session a full T, counted from its own start.
4. A server passes a connect request that resumes a session to the leader at once (REVALIDATE), and the
   leader touches the session.

**The proof.** The client sends a request at time *a*. On the same connection it sends a write at time *w*,
and gets the answer at *w + r*. The answer proves that at some moment after w a quorum followed the leader of
this server: a deposed leader commits nothing, although it still answers pings and even `sync`. It remains to
show that this leader touched the session after a. There are two cases.

- *The leader pinged the follower in between*: a ping reached the follower after the request and before the
  write. The follower's reply, which lists the session, went to the leader before the write, on the same
  first-in first-out stream. So when the leader received the write, it had touched the session, later than a.
  By (1) it does not expire the session before a + T. Its successor does not do so either: it started after
  the touch, so (3) applies. Pings are sent half a tick apart, and one takes no longer than the round trip r
  to arrive. So this case holds if a <= w - g, where *g = half a tick + r*.
- *The request was the connect request of this connection.* By (4) the leader touched the session before that
  was answered, so a <= w is enough, without g. A new session is created by a quorum write, so there the
  answer to the connect request is itself the proof.

**The lease** ends at the newest such a, plus T, less the lateness of our own event loop. `LeaseHolds`
subtracts the lateness, since it concerns the client and not the server.

**Slow requests.** A request may be in transit for long (a packet is sent again, a buffer is full, a server
has stopped reading) and then arrive together with the write, with no ping in between. So a request counts
only once it is *answered*, and its answer, instead of its sending, must come at least g before the write.
Then the request had arrived by that time, however long it took.

**Assumptions.** The clocks of client and server run at the same speed, to within g/T. The leader's pings are
at most half a tick and a slack of T/50 apart (timers are late, virtual machines pause), and a ping takes no
longer than r on a stream on which the write took no longer. So the g used here is half a tick, r and the
slack together. A paused leader is late with its expiry, too. Behind an observer master g contains a whole
tick: configure twice the real `tick_time` there.

The client cannot see the tick. By default a server grants no session shorter than two ticks, so half a tick
is at most T/4. That is assumed unless `tick_time` is given.
"""

from __future__ import annotations

from collections import deque

# How finely touches are remembered, as a part of T: a few dozen entries, whatever the traffic.
_GRAIN = 1 / 64
# By how much a leader's pings may be late, as a part of T.
_SLACK = 1 / 50


class LeaseClock:
    """Keeps the newest proof. `timeout` is the negotiated T in seconds, `half_tick` in seconds or None.

    With `by_ping` any answer counts as a proof from the moment its request was sent (``lease="ping"``):
    cheaper, and wrong whenever a server follows a leader that has been deposed.
    """

    def __init__(self, timeout: float, half_tick: float | None, *, by_ping: bool) -> None:
        self.timeout = timeout
        """T in seconds."""
        self._half_tick = half_tick
        self._by_ping = by_ping
        # When each request was sent and answered. Those older than T prove nothing, so the oldest may go.
        self._touches: deque[tuple[float, float]] = deque(maxlen=round(1 / _GRAIN) + 2)
        self._connect_sent = float("-inf")
        self.anchor = float("-inf")
        """The newest time at which the leader is known to have touched the session, or later."""
        self.end = float("-inf")
        """When the lease ends, by the client's clock; minus infinity before the first proof."""
        # Answers to requests that were sent before these times are ignored: of a burst the first is enough.
        self.touch_due = float("-inf")
        self.proof_due = float("-inf")

    def connected(self, sent: float, timeout: float, *, created: bool) -> None:
        """A connection is established by a connect request sent at `sent`; `created` for a new session.

        A server that resumes a session may grant another T. Earlier proofs hold for the shorter of the two.
        """
        self.anchor = min(self.anchor, self.anchor + self.timeout - timeout)
        self.timeout = timeout
        if created:
            self.anchor = float("-inf")  # earlier proofs were about another session
        self.end = self.anchor + timeout
        self._touches.clear()  # requests on another connection may not have arrived
        self._connect_sent = sent
        self.touch_due = self.proof_due = float("-inf")
        if created or self._by_ping:
            self._advance(sent)

    def disconnected(self) -> None:
        """The connection is lost; what it has proven stays valid."""
        self._touches.clear()
        self.touch_due = float("-inf")
        self._connect_sent = float("-inf")

    def answered(self, sent: float, now: float) -> None:
        """A request sent at `sent` has been answered at `now`: a touch, but not yet a proof."""
        if self._by_ping:
            self._advance(sent)
        elif sent >= self.touch_due:
            self.touch_due = sent + self.timeout * _GRAIN
            self._touches.append((sent, now))

    def proven(self, sent: float, now: float) -> None:
        """A quorum write that was sent at `sent` has been answered at `now`, on this connection."""
        if sent < self.proof_due:
            return
        self.proof_due = sent + self.timeout * _GRAIN
        self._advance(self._connect_sent)
        half_tick = self.timeout / 4 if self._half_tick is None else self._half_tick
        horizon = sent - half_tick - (now - sent) - self.timeout * _SLACK
        touches = self._touches
        while touches and touches[0][1] <= horizon:
            self._advance(touches.popleft()[0])

    def _advance(self, anchor: float) -> None:
        if anchor > self.anchor:
            self.anchor = anchor
            self.end = anchor + self.timeout
