"""/audit: who did what (admins only)."""

from fastapi import APIRouter

from app.services import audit
from app.services.audit import AuditView
from app.web.deps import CurrentAdmin, ReadSession
from app.web.pagination import After, Limit, Page

router = APIRouter(prefix="/audit", tags=["people"])


@router.get("", summary="Who did what, newest first")
def list_entries(session: ReadSession, _caller: CurrentAdmin, after: After, limit: Limit = 50) -> Page[AuditView]:
    return Page.of(audit.list_entries(session, after=after, limit=limit))
