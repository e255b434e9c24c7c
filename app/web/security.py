"""Host check against DNS rebinding, and the headers that every response carries."""

from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.config import Settings

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "testserver"})

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def install_security(app: FastAPI, settings: Settings) -> None:
    hosts = set(_LOOPBACK) | set(settings.allowed_hosts)
    if settings.base_url and (name := urlsplit(settings.base_url).hostname):
        hosts.add(name)
    app.add_middleware(_SecurityMiddleware, hosts=frozenset(hosts))


class _SecurityMiddleware:
    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host if host.startswith("[") and host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._hosts:
            refusal = PlainTextResponse(
                f"This server does not answer to the host name {name!r}; add it to TASTEMAKER_ALLOWED_HOSTS.",
                status_code=421,
            )
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                # not no-referrer: under it browsers send `Origin: null` with this site's own forms
                headers.setdefault("Referrer-Policy", "same-origin")
                headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)
