"""/metrics for Prometheus: operators, or without a token from this machine where the settings allow it."""

from ipaddress import ip_address

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.domain.enums import Role
from app.domain.errors import NotAuthenticatedError
from app.web.deps import CurrentSettings, MaybePrincipal
from app.web.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics in Prometheus's text format", response_class=Response)
def metrics(request: Request, settings: CurrentSettings, caller: MaybePrincipal) -> Response:
    if caller is not None:
        caller.require(Role.OPERATOR)
    elif not (settings.metrics_on_loopback and _is_from_this_machine(request)):
        raise NotAuthenticatedError("Metrics need an operator's token: Authorization: Bearer <token>.")
    found: Metrics = request.app.state.metrics
    return Response(found.render(), media_type=CONTENT_TYPE_LATEST)


def _is_from_this_machine(request: Request) -> bool:
    """A proxy on this machine passes on what comes from elsewhere, and says so."""
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers or request.client is None:
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
