"""One exception tree. Each class carries its HTTP status and a title; `app.web.errors` maps it once to problem+json.

A message says what was wrong and what to do about it.
"""

from collections.abc import Mapping, Sequence


class TastemakerError(Exception):
    """Anything that the product itself refuses or cannot do."""

    status = 500
    title = "Internal error"
    slug = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFoundError(TastemakerError):
    status, title, slug = 404, "Not found", "not-found"


class NotAuthenticatedError(TastemakerError):
    status, title, slug = 401, "Not signed in", "not-authenticated"


class ForbiddenError(TastemakerError):
    status, title, slug = 403, "Not allowed", "forbidden"


class ConflictError(TastemakerError):
    status, title, slug = 409, "Conflict", "conflict"


class GoneError(TastemakerError):
    status, title, slug = 410, "Gone", "gone"


class PayloadTooLargeError(TastemakerError):
    status, title, slug = 413, "Payload too large", "payload-too-large"


class NotAcceptableError(TastemakerError):
    status, title, slug = 406, "Not acceptable", "not-acceptable"


class RateLimitedError(TastemakerError):
    status, title, slug = 429, "Too many requests", "rate-limited"


class UnavailableError(TastemakerError):
    """A part that the request needs (broker, blob store, model folder) is away."""

    status, title, slug = 503, "Unavailable", "unavailable"


class InvalidSpecError(TastemakerError):
    """A payload of the wrong shape. `errors` name the fields: `[{"field": "spec.epochs", "message": "..."}]`."""

    status, title, slug = 422, "Invalid input", "invalid-input"

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = [dict(error) for error in errors]


class CorruptDataError(TastemakerError):
    """Stored or supplied bytes are not what they claim to be: a hash that does not match, a torn or unsafe file."""

    status, title, slug = 422, "Corrupt data", "corrupt-data"


class JobError(TastemakerError):
    """A job cannot go on; the message becomes the job's `error` and is shown to the operator as it stands."""

    status, title, slug = 500, "Job failed", "job-failed"


class JobCancelledError(TastemakerError):
    """Raised inside a running job after it has stored a resumable checkpoint because a cancel was asked for."""

    status, title, slug = 409, "Job cancelled", "job-cancelled"


class JobPausedError(JobCancelledError):
    """A running job stopped itself after storing a resumable state: a person should look before it goes on. The message
    says at what."""

    status, title, slug = 409, "Job paused", "job-paused"
