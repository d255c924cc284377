"""A registry of watches without a session: the requests that it makes are recorded, and a test answers
them."""

from __future__ import annotations

from corral.session.requests import Request
from corral.session.watch_registry import WatchRegistry
from corral.session.watchers import WatchEvent, WatchKind
from corral.wire import messages


class Watcher:
    """Records the events that it receives, and may react to them."""

    def __init__(self) -> None:
        self.seen: list[WatchEvent] = []
        self.told: list[tuple[WatchEvent, str]] = []
        """The same with their paths, since the last call of `news`."""
        self.refusals: list[BaseException] = []

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        self.seen.append(change)
        self.told.append((change, path))

    def refused(self, error: BaseException, /) -> None:
        self.refusals.append(error)

    def news(self) -> list[tuple[WatchEvent, str]]:
        """The events that it received since the last call."""
        told, self.told = self.told, []
        return told


class Registry(WatchRegistry):
    """Records the requests that it makes."""

    def __init__(self, **options: int) -> None:
        super().__init__(self._note, **options)
        self.requests: list[Request] = []
        self.asked: list[Request] = []
        """The requests for persistent watches that are not answered yet."""

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        if request.op is messages.ADD_WATCH:
            self.asked.append(request)

    def said(self) -> list[tuple[str, str, int]]:
        """Each request since the last call: the verb, the path, and the watch's type or mode."""
        said = [
            (each.op.name, *each.op.request.decode(each.body, 0, len(each.body))) for each in self.requests
        ]
        self.requests = []
        return said

    def answer(self, error: BaseException | None = None) -> None:
        """Answer the requests for persistent watches that are pending now."""
        asked, self.asked = self.asked, []
        for request in asked:
            if error is None:
                request.resolve(None)
            else:
                request.reject(error)


def is_armed(registry: WatchRegistry, path: str, kind: WatchKind = WatchKind.NODE) -> bool:
    """Whether the server has a watch of this kind. If so, the registry sets it again after a reconnect."""
    armed: dict[WatchKind, list[str]] = {each: [] for each in WatchKind}
    for op, body in registry.rearm(0):
        _, data, exist, children, *persistent = op.request.decode(body, 0, len(body))
        armed[WatchKind.NODE] += data + exist
        armed[WatchKind.CHILDREN] += children
        for each, paths in zip((WatchKind.PERSISTENT, WatchKind.RECURSIVE), persistent, strict=False):
            armed[each] += paths
    return path in armed[kind]
