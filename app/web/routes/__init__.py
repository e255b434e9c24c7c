"""The HTML pages."""

from fastapi import APIRouter, Depends

from app.web.pages import share_principal
from app.web.routes import desk, rating, session

router = APIRouter(include_in_schema=False, dependencies=[Depends(share_principal)])
router.include_router(desk.router)
router.include_router(rating.router)
router.include_router(session.router)
