"""How refusals are documented in OpenAPI: the problem documents (RFC 9457) that `app.web.errors` sends."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from app.domain.documented import Documented

MEDIA_TYPE = "application/problem+json"
Responses = dict[int | str, dict[str, Any]]


class FieldError(BaseModel):
    field: str
    message: str


class Problem(Documented):
    """What was wrong, and what to do about it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None
    """With status 422: every field that is wrong."""


_REASONS = {
    400: "The body cannot be read as what `Content-Type` says.",
    401: "No token, or one that is unknown, revoked or expired.",
    403: "The caller may not do this.",
    404: "There is no such object.",
    406: "None of the types in `Accept` can be sent.",
    409: "The state of the object does not allow this, or an `Idempotency-Key` was used for another call.",
    410: "It was there and has ended.",
    413: "The body is larger than the server accepts.",
    422: "A field is not valid; `errors` names it.",
    429: "Too many at once.",
    503: "A part that this needs is away; the detail says which.",
}


def problems(*statuses: int, besides: Responses | None = None) -> Responses:
    """The `responses` of an operation that may be refused with these statuses, `besides` what else it answers.

    401, 403 and 422 are documented for every call where the routers are put together.
    """
    return {**(besides or {}), **{status: _document(status) for status in statuses}}


def _document(status: int) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": "urn:tastemaker:problem:...",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _REASONS[status],
        "instance": "/api/v1/...",
    }
    if status == 422:
        example["errors"] = [{"field": "spec.epochs", "message": "Input should be greater than or equal to 1"}]
    return {
        "description": _REASONS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }
