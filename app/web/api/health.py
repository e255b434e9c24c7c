"""Liveness and readiness; the only calls that need no token."""

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import text

from app.domain.errors import UnavailableError
from app.web.deps import State

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


@router.get("/healthz", summary="Whether the process answers")
def healthz() -> Health:
    return Health(status="ok")


@router.get("/readyz", summary="Whether database, broker and blob store are reachable", responses={503: {}})
def readyz(state: State) -> JSONResponse:
    def check_database() -> None:
        try:
            with state.database.reader() as session:
                session.execute(text("SELECT 1 FROM job WHERE 1 = 0"))
        except Exception as error:
            raise UnavailableError(f"The database does not answer: {type(error).__name__}.") from error

    checks: dict[str, Callable[[], None]] = {
        "database": check_database,
        "broker": state.queue.check,
        "blobs": state.blobs.check,
    }
    parts: dict[str, str] = {}
    for name, check in checks.items():
        try:
            check()
            parts[name] = "ok"
        except UnavailableError as error:
            parts[name] = error.detail
    ready = all(value == "ok" for value in parts.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", **parts}, status_code=200 if ready else 503)
