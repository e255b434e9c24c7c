"""One log line and one id a request; the id comes in as `X-Request-Id` or is made here, and goes out again."""

import logging
import re
import time
from uuid import uuid4

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import request_id
from app.web.route_names import route_of

logger = logging.getLogger("tastemaker.access")

HEADER = "X-Request-Id"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


def loggable_path(scope: Scope) -> str:
    """The path, without the code of an invitation: whoever reads the log must not come in by it."""
    path: str = scope["path"]
    return "/i/…" if path.startswith("/i/") else path


def install_request_logging(app: FastAPI) -> None:
    app.add_middleware(_RequestLog)


class _RequestLog:
    """The query string is never logged: sign-in links carry their token there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        id = given if _ACCEPTED_ID.fullmatch(given) else uuid4().hex
        reset = request_id.set(id)
        began = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if scope["path"] not in _QUIET or status >= 400:
                client = scope.get("client")
                path = loggable_path(scope)
                logger.info(
                    "%s %s %d",
                    scope["method"],
                    path,
                    status,
                    extra={
                        "method": scope["method"],
                        "path": path,
                        "route": route_of(scope),
                        "status": status,
                        "milliseconds": round(1000 * (time.perf_counter() - began), 1),
                        "client": client[0] if client else None,
                    },
                )
            request_id.reset(reset)
