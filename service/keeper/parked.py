"""The streams of the whole service whose connection broke: where each is kept, and which is the oldest."""

from __future__ import annotations


class ParkedStreams:
    """Counts kept streams, so that those who break connections cannot have more kept than may be open; and knows those that
    went on in another worker, as long as their clients may not know it yet. Pure."""

    def __init__(self) -> None:
        self._workers: dict[str, int] = {}
        self._moved: dict[str, int] = {}

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
        self._moved = {token: owner for token, owner in self._moved.items() if owner != worker}

    def move(self, token: str, worker: int, limit: int) -> None:
        """A worker has fetched a stream by this token. Of more than a number of them the oldest is forgotten."""
        self._moved[token] = worker
        if len(self._moved) > limit:
            del self._moved[next(iter(self._moved))]

    def settle(self, token: str, worker: int) -> None:
        """What a worker fetched by this token is found by it no longer; where it has fetched nothing nothing happens."""
        if self._moved.get(token) == worker:
            del self._moved[token]

    def worker_of(self, token: str) -> int | None:
        """Return the worker that has a stream, which may be dead; None for what is no token.

        A token begins with the number of the worker in which its stream began.
        """
        digits = token.partition(".")[0]
        origin = int(digits) if digits.isascii() and digits.isdecimal() else None
        return self._moved.get(token, origin)
