"""What a form says before a job starts: time and memory from past runs, or that nothing is known."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.db.queries import jobs as job_queries
from app.domain.effort import finetune_effort
from app.domain.enums import EventKind, JobKind, JobStatus
from app.domain.specs import FinetuneSpec, PushSpec, RewardModelSpec
from app.services.estimates import estimate


def spec_of(base: UUID, **fields: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"checkpoint_id": base, "reward": {"name": "brightness"}, **fields})


def test_a_finetune_is_estimated_from_what_a_past_one_of_the_model_took(world: Any) -> None:
    base = world.checkpoint()
    old, new = spec_of(base, epochs=2), spec_of(base, epochs=20, samples_per_epoch=128)
    job_id = world.job(
        JobKind.FINETUNE, JobStatus.SUCCEEDED, spec=old.model_dump(mode="json"), worker="lab:1", started_at=world.now
    )
    effort = finetune_effort(old)
    timed = {"epoch": 1, "seconds_rollout": effort.rollout * 0.002, "seconds_update": effort.update * 0.005}
    with world.database.writer() as session:
        job_queries.append_event(session, job_id, EventKind.METRICS, timed, world.now)
        job_queries.append_event(session, job_id, EventKind.WORKER, {"peak_memory_bytes": 700_000_000}, world.now)
    wanted = finetune_effort(new)
    with world.database.reader() as session:
        found = estimate(session, new)
        other = estimate(session, spec_of(world.checkpoint("another")))
    assert found.seconds == pytest.approx(
        20 * (wanted.rollout * 0.002 + wanted.update * 0.005) + wanted.n_evaluations * wanted.evaluation * 0.002
    )
    assert found.memory_bytes == 700_000_000
    assert found.basis == "1 past finetune of this model on lab"
    assert other.seconds is None
    assert other.calibration_id is not None, "another model says nothing about this one"


def test_past_reward_models_say_nothing_about_a_push(world: Any) -> None:
    moments = {"started_at": world.now, "finished_at": world.now + timedelta(seconds=30)}
    world.job(JobKind.REWARD_MODEL, JobStatus.SUCCEEDED, attempts=1, **moments)
    with world.database.reader() as session:
        push = PushSpec(checkpoint_id=world.checkpoint(), repo_id="lab/model")
        assert estimate(session, push).seconds is None
        assert estimate(session, RewardModelSpec(campaign_id=push.checkpoint_id)).seconds == 30
