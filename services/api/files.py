"""The files that a browser asks for: the live page, and Swagger UI over the document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

__all__ = ["routes"]

_HERE: Final = Path(__file__).parent
_SWAGGER: Final = ("swagger-ui.css", "swagger-ui-bundle.js")

FRESH: Final = "no-cache"
"""Asked for each time, answered with 304 where nothing has changed: our own files."""

KEPT: Final = "public, max-age=86400"
"""Of a library, whose files change with its version only."""


class _Files(StaticFiles):
    """Static files that say how long they are good for."""

    def __init__(self, folder: Path, caching: str) -> None:
        super().__init__(directory=folder)
        self._caching = caching

    def file_response(self, *args: object, **options: object) -> Response:
        """As it is, with its caching."""
        response = super().file_response(*args, **options)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = self._caching
        return response


def routes() -> list[BaseRoute]:
    """`/`, `/page/…`, `/docs` and `/docs/…`; no key is needed for any of them."""
    from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

    page, docs = _Files(_HERE / "page", FRESH), _Files(_HERE / "docs", FRESH)
    swagger = _Files(Path(str(swagger_ui_path)), KEPT)
    single: Mapping[str, tuple[_Files, str]] = {
        "/": (page, "index.html"),
        "/docs": (docs, "index.html"),
        "/docs/start.js": (docs, "start.js"),
        **{f"/docs/{name}": (swagger, name) for name in _SWAGGER},
    }
    return [
        *(Route(path, _one(files, name), name=path) for path, (files, name) in single.items()),
        Route("/docs/", _docs, name="/docs/"),
        Mount("/page", page, name="page"),
    ]


async def _docs(_request: Request) -> Response:
    return RedirectResponse("../docs")


def _one(files: _Files, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return await files.get_response(name, request.scope)

    return serve
