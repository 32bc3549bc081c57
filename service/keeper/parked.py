"""The streams of the whole service whose connection broke: where each is kept, and which is the oldest."""

from __future__ import annotations


class ParkedStreams:
    """Counts kept streams, so that those who break connections cannot have more kept than may be open. Pure."""

    def __init__(self) -> None:
        self._workers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def add(self, worker: int, token: str, limit: int) -> list[tuple[int, str]]:
        """Note that a worker keeps a stream; return those that are too many now, the oldest first, which are noted no more."""
        self._workers[token] = worker
        too_many = list(self._workers)[: max(0, len(self._workers) - limit)]
        return [(self._workers.pop(old), old) for old in too_many]

    def remove(self, token: str) -> None:
        """A stream is kept no longer; one that is not known does not matter."""
        self._workers.pop(token, None)

    def forget(self, worker: int) -> None:
        """A worker is dead, and what it kept is gone."""
        self._workers = {token: owner for token, owner in self._workers.items() if owner != worker}
