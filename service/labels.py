"""The labels of a model: names, ids, and what a caller may write for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from service.errors import UnknownLabel

MAX_COMPARED = 80
"""Characters of an unknown name that are compared with the labels: the comparison's time grows with their number."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The ordered labels of a model. A label's id is its index.

    Args:
        names: One name for each output of the head, in the head's order.
    """

    names: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids: dict[str, int] = {}
        for index, name in enumerate(self.names):
            ids.setdefault(name.casefold(), index)
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, label_id: int) -> str:
        return self.names[label_id]

    def resolve(self, wanted: str | int, *, param: str = "labels") -> int:
        """Return the id of one label, given as its exact name (any case) or its integer id.

        Args:
            wanted: A name, an id, or an id written as text. A name wins over an id.
            param: The parameter to name in the error.

        Raises:
            UnknownLabel: There is no such label; the message names the nearest ones.
        """
        if isinstance(wanted, str) and wanted.casefold() in self._ids:
            return self._ids[wanted.casefold()]
        text = str(wanted).strip()
        if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(self.names):
            return int(text)
        nearest = difflib.get_close_matches(text[:MAX_COMPARED].casefold(), list(self._ids), n=3, cutoff=0.5)
        hint = "; the nearest: " + ", ".join(repr(self.names[self._ids[name]]) for name in nearest) if nearest else ""
        raise UnknownLabel(
            f"{text[:80]!r} is none of the model's {len(self.names)} labels (an exact name, or an id from 0 to "
            f"{len(self.names) - 1}){hint}",
            param=param,
        )

    def resolve_all(self, wanted: Iterable[str | int], *, param: str = "labels") -> frozenset[int]:
        """Return the ids of several labels; see `resolve`."""
        return frozenset(self.resolve(label, param=param) for label in wanted)
