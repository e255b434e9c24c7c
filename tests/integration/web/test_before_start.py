"""What a form says before a job starts: time, memory and warnings from past runs, or that nothing is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from app.db.models import LabelSnapshot, RewardModel, Sample, SampleReward
from app.db.queries import jobs as job_queries
from app.db.session import Database
from app.domain.effort import finetune_effort
from app.domain.enums import EventKind, JobKind, JobStatus
from app.domain.specs import FinetuneSpec, PushSpec, RewardModelSpec, SampleSpec
from app.services.attention import matters
from app.services.estimates import estimate
from app.services.foresight import warnings


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


def test_the_time_of_a_job_in_parts_is_that_of_one_worker_and_says_so(world: Any) -> None:
    base = world.checkpoint()
    world.samples(base, range(10))
    spec = SampleSpec(checkpoint_id=base, n=10, steps=5)
    moments = {"started_at": world.now, "finished_at": world.now + timedelta(seconds=20), "attempts": 1}
    drawn = world.job(JobKind.SAMPLE, JobStatus.SUCCEEDED, spec=spec.model_dump(mode="json"), **moments)
    with world.database.writer() as session:
        session.execute(update(Sample).where(Sample.checkpoint_id == base).values(job_id=drawn))
    with world.database.reader() as session:
        whole = estimate(session, spec)
        parts = estimate(session, spec.model_copy(update={"shards": 4}))
    assert whole.seconds == parts.seconds == 20
    assert "4 parts" not in whole.basis
    assert "by one worker, less where several do its 4 parts at once" in parts.basis


def test_past_reward_models_say_nothing_about_a_push(world: Any) -> None:
    moments = {"started_at": world.now, "finished_at": world.now + timedelta(seconds=30)}
    world.job(JobKind.REWARD_MODEL, JobStatus.SUCCEEDED, attempts=1, **moments)
    with world.database.reader() as session:
        push = PushSpec(checkpoint_id=world.checkpoint(), repo_id="lab/model")
        assert estimate(session, push).seconds is None
        assert estimate(session, RewardModelSpec(campaign_id=push.checkpoint_id)).seconds == 30


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that the block sends."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def learned(world: Any, **fields: Any) -> RewardModel:
    """A reward model of 300 labels that has seen four images, the best of them 1.5 standard deviations above the
    mean."""
    base = world.checkpoint("rated")
    campaign = world.campaign(base)
    job_id = world.job(JobKind.REWARD_MODEL, JobStatus.SUCCEEDED)
    snapshot = LabelSnapshot(
        id=uuid4(), campaign_id=campaign, sha256=world.blobs.put(b"{}"), n_labels=300, created_at=world.now
    )
    model = RewardModel(**{
        "id": uuid4(), "job_id": job_id, "campaign_id": campaign, "snapshot_id": snapshot.id, "name": "Taste",
        "encoder": "efficientnet-lite0", "blob_sha256": "a" * 64, "n_labels": 300, "report": {},
        "created_at": world.now, **fields,
    })  # fmt: skip
    world.add(snapshot, model)
    samples = world.samples(base, range(4))
    values = (-1.0, -1.0, 0.0, 2.0)  # mean 0, standard deviation sqrt(1.5)
    world.add(*[
        SampleReward(sample_id=sample.id, name=f"preference:{model.id}", value=value)
        for sample, value in zip(samples, values, strict=True)
    ])  # fmt: skip
    return model


def toward(model: RewardModel, base: UUID, **fields: Any) -> FinetuneSpec:
    reward = {"name": "preference", "reward_model_id": model.id}
    return spec_of(base, **{"reward": reward, "epochs": 20} | fields)


def past_finetune(world: Any, spec: FinetuneSpec, gain: float, *, alarm: int | None = None) -> None:
    """A run of this spec that gained `gain` standard deviations an epoch, with its first alarm at `alarm`."""
    job_id = world.job(
        JobKind.FINETUNE, JobStatus.SUCCEEDED, spec=spec.model_dump(mode="json"), started_at=world.now, worker="lab:1"
    )
    with world.database.writer() as session:
        for epoch in range(3):
            row = {
                "epoch": epoch, "reward_mean": 2.0 * gain * epoch, "reward_std": 2.0, "seconds_rollout": 1.0,
                "seconds_update": 1.0,
            }  # fmt: skip
            job_queries.append_event(session, job_id, EventKind.METRICS, row, world.now)
        if alarm is not None:
            payload = {"epoch": alarm, "message": "cheats", "alarms": ["cheats"]}
            job_queries.append_event(session, job_id, EventKind.ALARM, payload, world.now)


def said(world: Any, spec: FinetuneSpec) -> list[str]:
    with world.database.reader() as session:
        return [warning.text for warning in warnings(session, spec)]


def test_without_any_run_the_warning_says_how_far_the_votes_reach(world: Any) -> None:
    model = learned(world)
    assert said(world, toward(model, world.checkpoint())) == ["300 labels: past 2 this reward is on its own."]


def test_over_optimisation_is_expected_when_past_gains_have_left_what_was_judged(world: Any) -> None:
    """2 / sqrt(1.5) = 1.63 standard deviations at 0.4 an epoch are 4.1 epochs, so five."""
    model = learned(world)
    spec = toward(model, world.checkpoint())
    past_finetune(world, spec, 0.4)
    assert said(world, spec) == ["300 labels: expect over-optimisation after about 5 epochs."]
    assert said(world, toward(model, world.checkpoint(), epochs=4)) == [], "such a short run does not get there"
    other_pace = toward(model, world.checkpoint(), lr={"peak": 5e-4})
    assert said(world, other_pace) == ["300 labels: past 2 this reward is on its own."]


def test_where_past_runs_raised_alarms_their_median_epoch_is_named(world: Any) -> None:
    model = learned(world)
    spec = toward(model, world.checkpoint())
    for alarm in (3, 7, 4):
        past_finetune(world, spec, 0.4, alarm=alarm)
    assert said(world, spec) == ["300 labels: expect over-optimisation after about 4 epochs."]


def test_a_guessing_reward_and_few_seeds_are_said_before_the_start(world: Any) -> None:
    model = learned(world, accuracy=0.55, accuracy_low=0.48, accuracy_high=0.62)
    found = said(world, toward(model, world.checkpoint(), eval={"n": 4}))
    assert found[0] == "“Taste” cannot be told from guessing yet: collect more votes first."
    assert found[-1] == "Alarms will rest on 4 fixed seeds: a fall must be large to be seen."
    assert said(world, spec_of(world.checkpoint())) == [], "a computed reward needs no votes"


def test_the_form_shows_the_warning_as_soon_as_it_is_filled_in(
    world: Any, client: TestClient, operator: dict[str, str]
) -> None:
    model = learned(world)
    fields = {"checkpoint_id": str(world.checkpoint()), "reward": f"preference:{model.id}"}
    answer = client.post(
        "/jobs/new/finetune/estimate", data=fields, headers=operator | {"accept": "text/html", "x-fragment": "1"}
    )
    assert answer.status_code == 200
    assert "300 labels: past 2 this reward is on its own." in answer.text


def test_what_the_form_and_the_desk_say_costs_the_same_for_one_past_run_as_for_twenty(world: Any) -> None:
    model = learned(world)
    spec = toward(model, world.checkpoint())
    sample = SampleSpec(checkpoint_id=spec.checkpoint_id)

    def past() -> None:
        epoch = world.checkpoint("epoch", parent_id=spec.checkpoint_id)
        world.samples(epoch, range(3))
        past_finetune(world, toward(model, epoch), 0.4, alarm=3)
        moments = {"started_at": world.now, "finished_at": world.now + timedelta(seconds=9), "attempts": 1}
        drawn = world.job(JobKind.SAMPLE, JobStatus.SUCCEEDED, spec=sample.model_dump(mode="json"), **moments)
        with world.database.writer() as session:
            session.execute(update(Sample).where(Sample.checkpoint_id == epoch).values(job_id=drawn))
            job_queries.append_event(session, drawn, EventKind.WORKER, {"peak_memory_bytes": 7}, world.now)

    def statements() -> dict[str, int]:
        found = {}
        for name, ask in {
            "finetune": lambda session: estimate(session, spec),
            "sample": lambda session: estimate(session, sample),
            "warnings": lambda session: warnings(session, spec),
            "desk": matters,
        }.items():  # fmt: skip
            with world.database.reader() as session, counted(world.database) as sent:
                assert ask(session)
            found[name] = len(sent)
        return found

    past()
    with_one = statements()
    for _ in range(19):
        past()
    assert statements() == with_one
    assert max(with_one.values()) <= 8
