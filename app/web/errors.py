"""Maps the one exception tree to RFC 9457 problem+json for programs and to an error page for people."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from app.domain.errors import InvalidSpecError, NotAuthenticatedError, TastemakerError
from app.web.templating import render

logger = logging.getLogger(__name__)


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(TastemakerError, _on_tastemaker_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def answer_error(request: Request, error: TastemakerError) -> Response:
    """The answer to an error for middleware, which the exception handlers do not reach."""
    return _on_tastemaker_error(request, error)


def _on_tastemaker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TastemakerError)
    errors = error.errors if isinstance(error, InvalidSpecError) else None
    if isinstance(error, NotAuthenticatedError) and _is_page_to_sign_in_for(request):
        return RedirectResponse("/login", status_code=303)
    return _answer(request, error.status, error.title, error.detail, slug=error.slug, errors=errors)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in item["loc"] if part != "body"), "message": str(item["msg"])}
        for item in error.errors()
    ]
    fields = ", ".join(item["field"] or "body" for item in errors)
    return _answer(request, 422, "Invalid input", f"Not valid: {fields}.", slug="invalid-input", errors=errors)


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    response = _answer(request, error.status_code, title, str(error.detail), slug="http")
    response.headers.update(error.headers or {})
    return response


def _on_unexpected(request: Request, error: Exception) -> Response:
    logger.exception("unexpected error", exc_info=error)
    return _answer(request, 500, "Internal error", "Something broke on our side; it has been logged.", slug="internal")


def _answer(
    request: Request, status: int, title: str, detail: str, *, slug: str, errors: list[dict[str, str]] | None = None
) -> Response:
    if _wants_page(request):
        return render(request, "error.html", {"status": status, "title": title, "detail": detail}, status=status)
    body: dict[str, Any] = {
        "type": f"urn:tastemaker:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    if errors is not None:
        body["errors"] = errors
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status_code=status, media_type="application/problem+json", headers=headers)


def _is_page_to_sign_in_for(request: Request) -> bool:
    return _wants_page(request) and request.method == "GET" and request.url.path != "/login"


def _wants_page(request: Request) -> bool:
    path = request.url.path
    if path.startswith(("/api/", "/media/")) or path in ("/healthz", "/readyz"):
        return False
    return "text/html" in request.headers.get("accept", "")
