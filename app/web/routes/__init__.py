"""The HTML pages."""

from fastapi import APIRouter, Depends

from app.web.pages import share_principal
from app.web.routes import (
    analysis,
    campaigns,
    checkpoints,
    compare,
    desk,
    evaluation,
    invitations,
    job_forms,
    jobs,
    lineage,
    people,
    playgrounds,
    rating,
    rewards,
    samples,
    session,
    storage,
    trust,
)

router = APIRouter(include_in_schema=False, dependencies=[Depends(share_principal)])
router.include_router(desk.router)
router.include_router(rating.router)
router.include_router(session.router)
router.include_router(job_forms.router)  # before jobs: /jobs/new is no job's id
router.include_router(evaluation.router)  # before jobs: /jobs/{id}/dev-set is no action on a job
router.include_router(jobs.router)
router.include_router(campaigns.router)
router.include_router(trust.router)
router.include_router(invitations.router)
router.include_router(checkpoints.router)
router.include_router(compare.router)
router.include_router(samples.router)
router.include_router(storage.router)
router.include_router(lineage.router)
router.include_router(rewards.router)
router.include_router(playgrounds.router)  # before analysis: /analysis/inversion is no analysis's id
router.include_router(analysis.router)
router.include_router(people.router)
