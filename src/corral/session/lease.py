"""Until when a holder may trust its session: the lease clock (S3). Pure arithmetic on times passed in.

The claim: *the server does not expire the session before the lease ends.*

What the server does (ZooKeeper's `ExpiryQueue`, `SessionTrackerImpl`, `Learner.ping`, `LearnerHandler`):

1. The leader expires a session no sooner than T after it last *touched* it (it rounds up to its tick).
2. The leader touches sessions of its own clients with each request. Of a follower's clients it learns only
   through the follower's replies to its pings: each carries the sessions heard of since the last one. The
   leader pings every half tick. A write that it receives does not touch the session.
3. A new leader grants every session a full T from its own start.
4. A connect request that resumes a session is passed to the leader at once (REVALIDATE), which touches it.

What the client knows. Let it send a request at *a* and, on the same connection, a write at *w* that is
answered at *w + r*. The answer proves that a quorum followed this server's leader at some moment after w
(a deposed leader commits nothing, though it answers pings and even `sync`).

- Say the leader's first ping to reach the follower after the request did so before the write did. Then
  the follower's ping reply, which carries the touch, went out before the write on the same first-in
  first-out stream, so the leader had touched the session, later than a, when it took the write. It expires
  the session no sooner than a + T by (1), and whoever succeeds it started after that, so not sooner either,
  by (3). Pings are half a tick apart, and one is on its way no longer than the round trip r, so the
  condition is met when a <= w - g with *g = half a tick + r*.
- Or *a* is when the connect request of this connection was sent. By (4) the leader touched the session
  before it answered, so the condition is a <= w, without g. A session that is new is created by a quorum
  write, so there the connect answer is a proof already.

Hence the lease: the newest such *a*, plus T, less the lateness of our own event loop (which `LeaseHolds`
subtracts, as it is about us and not about the server).

One thing is done more strictly than that. A request may be long on its way (a packet sent again, a full
buffer, a server that has stopped reading) and arrive together with the write, with no ping in between. So a
request counts only once it is *answered*, and that answer, instead of its sending, must be g before the
write: then it had arrived by then, however long it took.

What is assumed: clocks that run at the same speed to within g/T; a leader whose pings are at most half a tick
and a slack of T/50 apart (timers, virtual machines), and not slower than r on a stream where the write was
not. So g is half a tick, r and the slack together. A paused leader is late with its expiry too. Behind an
observer master g has a whole tick in it: say `tick_time` twice as long.

The client cannot see the tick. A server's defaults allow no session shorter than two ticks, so half a tick
is at most T/4, which is what is assumed unless `tick_time` is given.
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
        # When each was sent and answered. Those older than T prove nothing any more, so the oldest may go.
        self._touches: deque[tuple[float, float]] = deque(maxlen=round(1 / _GRAIN) + 2)
        self._connect_sent = float("-inf")
        self.anchor = float("-inf")
        """The newest time at which the leader is known to have touched the session, or later."""
        self.end = float("-inf")
        """When the lease ends, by the client's clock; minus infinity before the first proof."""
        # An answer to what was sent before these would say nothing new: of a burst the first says enough.
        self.touch_due = float("-inf")
        self.proof_due = float("-inf")

    def connected(self, sent: float, timeout: float, *, created: bool) -> None:
        """A connection is established by a connect request sent at `sent`; `created` for a new session.

        A server that takes a session over may grant another T. What was proven before was proven for the
        shorter of the two.
        """
        self.anchor = min(self.anchor, self.anchor + self.timeout - timeout)
        self.timeout = timeout
        if created:
            self.anchor = float("-inf")  # what was proven was proven of another session
        self.end = self.anchor + timeout
        self._touches.clear()  # what was sent on another connection need not have arrived
        self._connect_sent = sent
        self.touch_due = self.proof_due = float("-inf")
        if created or self._by_ping:
            self._advance(sent)

    def disconnected(self) -> None:
        """The connection is gone; what it has proven stays."""
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
