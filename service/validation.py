"""What is wrong with parameters, from pydantic's errors or before it: one sentence that names the parameter, what was got
and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

import pydantic

from service.errors import InvalidParameter

MAX_SHOWN = 80


def collect_query(
    items: Iterable[tuple[str, str]], known: Collection[str], lists: Collection[str]
) -> dict[str, str | list[str]]:
    """Return the parameters of a query by name: a list of all values where the name is one of ``lists``, else the one value.

    Raises:
        InvalidParameter: A ``known`` one that has one value is given twice, with different ones. What is wrong with one that
            does not exist is that.
    """
    collected: dict[str, str | list[str]] = {}
    for name, value in items:
        before = collected.setdefault(name, [] if name in lists else value)
        if isinstance(before, list):
            before.append(value)
        elif before != value and name in known:
            twice = f"{name} is given twice, as {before[:MAX_SHOWN]!r} and {value[:MAX_SHOWN]!r}"
            raise InvalidParameter(twice, param=name)
    return collected


def parameter_error(error: pydantic.ValidationError, known: Collection[str], prefix: str = "") -> InvalidParameter:
    """Return the first problem of a validation as an `InvalidParameter`.

    Args:
        error: What pydantic raised.
        known: The parameters that exist, to name the nearest where one does not.
        prefix: Where the validated object sits, with a final dot.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    is_unknown, path = first["type"] == "extra_forbidden", first["loc"]
    # A union's error path names its members after the field; a user knows only the field and the keys below it. The name of
    # what does not exist stays as it was written, whatever it looks like.
    where = prefix + ".".join(
        str(part)
        for index, part in enumerate(path, start=1)
        if not isinstance(part, str) or part.isidentifier() or (is_unknown and index == len(path))
    )
    if is_unknown:
        return unknown_parameter(where, known, prefix)
    where = where.rstrip(".")[:MAX_SHOWN]
    match first["type"]:
        case "missing":
            return InvalidParameter(f"{where} is missing", param=where)
        case "json_invalid":
            return InvalidParameter(f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    said = f"{where or 'the value'}: {_problem_of(first['msg'])}"
    is_ours = first["type"] == "value_error" and isinstance(first["input"], Mapping)  # it names the values that matter
    if not is_ours:
        got = repr(first["input"])
        said += f"; got {got[:MAX_SHOWN]}{'...' if len(got) > MAX_SHOWN else ''}"
    return InvalidParameter(said, param=where or None)


def describe_document(error: pydantic.ValidationError) -> str:
    """Return the first problem of a document, a file of ours as a rule, as the end of a sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:MAX_SHOWN]
    match first["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"there is no {where} in it"
    return f"{where}{': ' if where else ''}{_problem_of(first['msg'])}"


def unknown_parameter(name: str, known: Iterable[str], prefix: str = "") -> InvalidParameter:
    """Return the error for a parameter that does not exist, naming the nearest one that does."""
    nearest = difflib.get_close_matches(name.removeprefix(prefix)[:MAX_SHOWN], list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return InvalidParameter(f"there is no parameter {name[:MAX_SHOWN]!r}{hint}", param=name[:MAX_SHOWN])


def _problem_of(message: str) -> str:
    problem = message.removeprefix("Value error, ")
    return f"{problem[:1].lower()}{problem[1:]}"
