"""Refuses who calls too often: by token or session, by address, and failed sign-ins and guessed invitations by address
most strictly."""

import hashlib
import math
from ipaddress import IPv6Address, ip_address

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.adapters.clock import Clock
from app.config import Settings
from app.domain.errors import RateLimitedError
from app.services.rate_limits import Limit, RateLimiter
from app.web.deps import SESSION_COOKIE
from app.web.errors import answer_error

_BURST_SECONDS = 10
_UNCOUNTED = frozenset({"/healthz", "/readyz"})


def install_rate_limits(app: FastAPI, settings: Settings, clock: Clock) -> RateLimiter:
    """Returns the limiter, which must be closed when the process ends."""
    limiter = RateLimiter(settings.celery_broker_url, clock)
    app.add_middleware(_RateLimitMiddleware, limiter=limiter, settings=settings)
    return limiter


class _RateLimitMiddleware:
    def __init__(self, app: ASGIApp, limiter: RateLimiter, settings: Settings) -> None:
        self._app = app
        self._limiter = limiter
        self._token = _per_second(settings.requests_per_second_per_token)
        self._address = _per_second(settings.requests_per_second_per_address)
        per_minute = settings.failed_logins_per_minute
        self._login = Limit(rate=per_minute / 60, burst=per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED or scope["path"].startswith("/static/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        address = _address(request)
        wait = await self._limiter.take(self._limits(request, address))
        if wait > 0:
            await _refuse(request, wait, receive, send)
        elif _is_login(request):
            await self._guess_once(request, f"login:{address}", receive, send)
        elif scope["path"].startswith("/i/"):
            await self._guess_once(request, f"invitation:{address}", receive, send)
        else:
            await self._app(scope, receive, send)

    def _limits(self, request: Request, address: str) -> dict[str, Limit]:
        limits = {f"address:{address}": self._address}
        secret = request.headers.get("authorization") or request.cookies.get(SESSION_COOKIE)
        if secret:
            limits[f"token:{hashlib.sha256(secret.encode()).hexdigest()[:32]}"] = self._token
        return limits

    async def _guess_once(self, request: Request, bucket: str, receive: Receive, send: Send) -> None:
        """Every attempt is charged before it is made, so that many at once gain nothing; one that was no guess is given
        back: a good one, an invitation that has ended, a form that was filled in wrongly."""
        limits = {bucket: self._login}
        wait = await self._limiter.take(limits)
        if wait > 0:
            await _refuse(request, wait, receive, send)
            return
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(request.scope, receive, watch)
        if status < 400 or status in (410, 422):
            await self._limiter.take(limits, cost=-1.0)


def _per_second(rate: float) -> Limit:
    return Limit(rate=rate, burst=rate * _BURST_SECONDS)


def _address(request: Request) -> str:
    """Whom to count: an IPv4 address, or the /64 network that one IPv6 subscriber holds."""
    host = request.client.host if request.client else "unknown"
    try:
        parsed = ip_address(host)
    except ValueError:
        return host
    return str(IPv6Address(int(parsed) >> 64 << 64)) if isinstance(parsed, IPv6Address) else str(parsed)


def _is_login(request: Request) -> bool:
    return request.url.path == "/login" and (request.method == "POST" or "token" in request.query_params)


async def _refuse(request: Request, wait: float, receive: Receive, send: Send) -> None:
    seconds = math.ceil(wait)
    response = answer_error(request, RateLimitedError(f"Too many requests; try again in {seconds} s."))
    response.headers["Retry-After"] = str(seconds)
    await response(request.scope, receive, send)
