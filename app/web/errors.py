"""Maps the one exception tree to RFC 9457 problem+json for programs and to an error page for people."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import InvalidSpecError, NotAuthenticatedError, PayloadTooLargeError, TastemakerError
from app.web.templating import render

logger = logging.getLogger(__name__)


def install_error_handlers(app: FastAPI, *, max_bytes: int) -> None:
    """Errors as documents. `max_bytes` is the longest body that the server takes; longer ones are refused unread."""
    app.add_middleware(_BodyLimit, max_bytes=max_bytes)
    app.add_exception_handler(TastemakerError, _on_tastemaker_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


class _BodyLimit:
    """Refuses a body that is too long, declared or streamed. FastAPI's `max_body_size` does so too, in plain text."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        too_large = PayloadTooLargeError(f"At most {self._max_bytes:,} bytes are accepted in one request.")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await answer_error(Request(scope, receive), too_large)(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, too_large.detail)  # FastAPI takes any other error for a body it cannot read
            return message

        await self._app(scope, receive_within_limit, send)


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
