"""Renders Jinja2 templates with what every page shares."""

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.templating import Jinja2Templates
from starlette.responses import Response

from app import __version__

FRONTEND_DIR = Path(__file__).resolve().parents[2] / "frontend"

templates = Jinja2Templates(directory=FRONTEND_DIR / "templates")
templates.env.globals["version"] = __version__


def render(request: Request, name: str, context: dict[str, Any] | None = None, *, status: int = 200) -> Response:
    """A page or a fragment. Every template may use `request`, `version` and what `context` adds."""
    return templates.TemplateResponse(request, name, context or {}, status_code=status)
