"""Static files under a path that names their content: browsers may keep them for ever and never see an old one."""

import hashlib
from functools import lru_cache
from pathlib import Path

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

FRONTEND_DIR = Path(__file__).resolve().parents[2] / "frontend"
_STATIC_DIR = FRONTEND_DIR / "static"


@lru_cache(maxsize=1)
def static_version() -> str:
    """Twelve hex digits over every static file: one changed byte gives all, modules' imports too, a new path."""
    digest = hashlib.sha256()
    for path in sorted(_STATIC_DIR.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(_STATIC_DIR).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def static_url(path: str) -> str:
    """The address of a file below `frontend/static`, for example `static_url("css/tastemaker.css")`."""
    return f"/static/{static_version()}/{path}"


class VersionedStaticFiles(StaticFiles):
    """Serves `/<version>/<path>`; only the current version's answers may be kept."""

    def __init__(self) -> None:
        super().__init__(directory=_STATIC_DIR)

    async def get_response(self, path: str, scope: Scope) -> Response:
        version, _, rest = path.partition("/")
        response = await super().get_response(rest, scope)
        current = version == static_version() and response.status_code in (200, 304)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if current else "no-cache"
        return response
