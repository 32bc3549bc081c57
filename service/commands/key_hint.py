"""What a service says of a missing key is for every client; how a command is given one is said here."""

from __future__ import annotations

from service.errors import SonotagError, Unauthorised

HINT = "give it to this command with SONOTAG_API_KEY or --api-key-file"


def add_hint(error: SonotagError | str, message: str) -> str:
    """Return a message with the hint, where it is about a key that is missing or not known.

    Args:
        error: The error, or its code.
        message: What is said of it.
    """
    code = error if isinstance(error, str) else getattr(error, "code", None)
    return f"{message} ({HINT})" if code == Unauthorised.code else message
