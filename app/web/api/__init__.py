"""The REST API, /api/v1."""

from fastapi import APIRouter

from app.web.api import health

router = APIRouter()
router.include_router(health.router)
