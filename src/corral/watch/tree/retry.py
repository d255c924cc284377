"""When a cache that has failed tries again."""

from __future__ import annotations

from corral import errors

__all__ = ["RetryDelays", "is_costly"]

# The first and the longest delay, in seconds; the second pair where each attempt is costly.
RETRY_FIRST, RETRY_MOST = 0.05, 0.9
COSTLY_FIRST, COSTLY_MOST = 1.0, 10.0

# After these no attempt can succeed.
_FINAL_ERRORS = (errors.ClientClosed, errors.AuthFailed, errors.EnsembleBehind)


class RetryDelays:
    """Delays between attempts, which double until the next success."""

    def __init__(self) -> None:
        self._attempts = 0

    def after(self, error: BaseException, wasted: float) -> float | None:
        """The delay after an attempt that took `wasted` seconds in vain; None if no attempt can succeed."""
        if isinstance(error, _FINAL_ERRORS):
            return None
        first, most = (COSTLY_FIRST, COSTLY_MOST) if is_costly(error) else (RETRY_FIRST, RETRY_MOST)
        delay = min(first * 2.0 ** min(self._attempts, 10), most)
        self._attempts += 1
        return max(delay, wasted)  # at least half of the time the server is free for others

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._attempts = 0


def is_costly(error: BaseException) -> bool:
    """Whether another attempt costs a connection, or an answer over the limit, if nothing has changed."""
    if isinstance(error, errors.ServerError):
        return isinstance(error, errors.Unimplemented)  # old servers close the connection on unknown requests
    return isinstance(error, errors.CorralError)
