"""The HTML pages."""

from fastapi import APIRouter, Depends

from app.web.pages import share_principal
from app.web.routes import analysis, campaigns, checkpoints, desk, job_forms, jobs, people, rating, rewards, session

router = APIRouter(include_in_schema=False, dependencies=[Depends(share_principal)])
router.include_router(desk.router)
router.include_router(rating.router)
router.include_router(session.router)
router.include_router(job_forms.router)  # before jobs: /jobs/new is no job's id
router.include_router(jobs.router)
router.include_router(campaigns.router)
router.include_router(checkpoints.router)
router.include_router(rewards.router)
router.include_router(analysis.router)
router.include_router(people.router)
