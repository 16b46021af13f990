"""The OpenAPI document: what FastAPI says of the endpoints, and what stands before them all."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from pgsched.api.guard import OPEN_PATHS

_SCHEME = {"type": "http", "scheme": "bearer", "description": "The key of PGSCHED_API_KEY."}
_REFUSAL = {
    "description": "The key is missing or wrong",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


class DescribedApp(FastAPI):
    """An app whose document says whether a key is wanted."""

    has_key = False

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            if self.has_key:
                _add_key(document)
        return super().openapi()

    def methods_of(self, path: str) -> list[str]:
        """By which methods the endpoints of a path, as the document has it, are reached."""
        return sorted(method.upper() for method in self.openapi()["paths"].get(path, ()))


def _add_key(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": _SCHEME}
    for path in document["paths"].keys() - OPEN_PATHS:
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = _REFUSAL
