"""The REST API, /api/v1."""

from fastapi import APIRouter

from app.web.api import (
    analyses,
    audit,
    campaigns,
    checkpoints,
    comparisons,
    evaluations,
    health,
    invitations,
    jobs,
    library,
    lineage,
    media,
    metrics,
    people,
    reward_models,
    rewards,
    samples,
    trust,
    webhooks,
    workers,
)
from app.web.api.problems import problems

_v1 = APIRouter(responses=problems(401, 403, 422))
_v1.include_router(checkpoints.router)
_v1.include_router(samples.router)
_v1.include_router(library.router)
_v1.include_router(lineage.router)
_v1.include_router(evaluations.router)
_v1.include_router(jobs.router)
_v1.include_router(workers.router)
_v1.include_router(rewards.router)
_v1.include_router(analyses.router)
_v1.include_router(people.router)
_v1.include_router(webhooks.router)
_v1.include_router(audit.router)
_v1.include_router(campaigns.router)
_v1.include_router(invitations.router)
_v1.include_router(comparisons.router)
_v1.include_router(trust.router)
_v1.include_router(reward_models.router)

router = APIRouter()
router.include_router(health.router)
router.include_router(metrics.router, responses=problems(401, 403))
router.include_router(media.router, responses=problems(401, 403, 422))
router.include_router(_v1, prefix="/api/v1")
