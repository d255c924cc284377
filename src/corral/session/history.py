"""What has happened to a client's sessions, for its statistics and its log. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class History:
    """Kept by the machine. The reasons are those of the last change of the state."""

    state_since: float = float("-inf")
    """When the state changed last, by the machine's clock."""
    sessions_opened: int = 0
    connections_established: int = 0
    loss_reason: str = ""
    """Why the connection was lost."""
    end_reason: str = ""
    """Why what was held was lost."""
    lost_nodes: str = ""
    """What was held and lost, for a log line."""
