"""FastAPI, whose description says which calls want a key.

A dependency of each route would say so, too, and FastAPI would solve it for each request, to no end (measured:
docs/performance.md, a clip besides its model).
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from service.access.guard import Guard

_SCHEME: Final = "HTTPBearer"
_SCHEMES: Final = {
    _SCHEME: {"type": "http", "scheme": "bearer", "description": "An API key or a token, where the service has keys."}
}


class DescribedAPI(FastAPI):
    """FastAPI with what the door asks for in its OpenAPI description.

    Args:
        guard: Knows what is answered without a key.
        options: FastAPI's, of many types.
    """

    def __init__(self, guard: Guard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard

    def openapi(self) -> dict[str, Any]:
        """Return the description; see FastAPI, which keeps it until there are other routes."""
        described = super().openapi()
        components = described.setdefault("components", {})
        if "securitySchemes" not in components:
            components["securitySchemes"] = _SCHEMES
            for path, operations in described["paths"].items():
                if not self._guard.is_public(path):
                    for operation in operations.values():
                        operation["security"] = [{_SCHEME: []}]
        return described
