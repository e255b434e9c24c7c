"""Signal 9 to every part at random moments while people vote and models train: nothing promised is lost or done twice.

Five rounds here, one a part; `make chaos` runs thirty (TASTEMAKER_CHAOS_ROUNDS).
"""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.adapters.clock import SystemClock
from app.db.models import Checkpoint, Job, JobEvent, Preference
from app.domain.enums import EventKind, JobKind, JobStatus, Role
from app.services import accounts, doctor
from tests.chaos.parts import Deployment, deployment
from tests.chaos.people import Operator, Rater

ROUNDS = int(os.environ.get("TASTEMAKER_CHAOS_ROUNDS", "5"))
SEED = int(os.environ.get("TASTEMAKER_CHAOS_SEED", "0"))
REPORT = os.environ.get("TASTEMAKER_CHAOS_REPORT")
RECOVERY_SECONDS = 60.0
EPOCHS = 8
N_SAMPLES = 60 + 8 * ROUNDS
"""Their pairs must outlast three raters of four votes a second."""


def token(parts: Deployment, name: str, role: Role) -> str:
    now = SystemClock().now()
    with parts.database.writer() as session:
        user = accounts.ensure_user(session, name, role, now)
        return accounts.create_token(session, user, name=name, role=role, now=now)[1]


def finetune_spec(checkpoint_id: str) -> dict[str, Any]:
    return {
        "checkpoint_id": checkpoint_id,
        "reward": {"name": "brightness"},
        "epochs": EPOCHS,
        "samples_per_epoch": 24,
        "steps": 10,
        "batch_size": 40,
        "updates_per_epoch": 2,
        "ema": 0.9,
        "lr": {"peak": 1e-3},
        "eval": {"every": 4, "n": 4},
    }


def weights(parts: Deployment, job_id: str) -> dict[int | None, str]:
    """The hash over every file of each saved epoch: equal hashes are equal weights."""
    with parts.database.reader() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == UUID(job_id))).all()
        assert len({row.epoch for row in rows}) == len(rows), "an epoch was saved twice"
        return {row.epoch: row.manifest_sha256 for row in rows}


def work_done(parts: Deployment) -> int:
    """Grows whenever any job gets on."""
    with parts.database.reader() as session:
        wanted = (EventKind.METRICS, EventKind.SAMPLES, EventKind.STATUS)
        return session.scalar(select(func.count()).select_from(JobEvent).where(JobEvent.kind.in_(wanted))) or 0


def running(parts: Deployment) -> bool:
    with parts.database.reader() as session:
        return session.scalar(select(Job.id).where(Job.status == JobStatus.RUNNING).limit(1)) is not None


def seconds_until(what: str, holds: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < RECOVERY_SECONDS, f"not within {RECOVERY_SECONDS:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def plan(rng: random.Random) -> list[str]:
    """Every part equally often, in random order."""
    parts = [Deployment.PARTS[number % len(Deployment.PARTS)] for number in range(ROUNDS)]
    rng.shuffle(parts)
    return parts


def report(
    path: Path, recoveries: list[tuple[str, float]], raters: list[Rater], finals: dict[str, dict[str, Any]]
) -> None:
    """What a long run measured, for benchmarks/results."""
    by_part = {part: [round(took, 1) for name, took in recoveries if name == part] for part in Deployment.PARTS}
    found = {
        "rounds": ROUNDS,
        "seed": SEED,
        "recovery_seconds": by_part,
        "slowest_recovery_seconds": round(max(took for _, took in recoveries), 1),
        "votes": sum(len(rater.promised) for rater in raters),
        "jobs": len(finals),
        "attempts": sum(job["attempts"] for job in finals.values()),
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_nothing_promised_is_lost_or_done_twice(tmp_path: Path, tiny_model: Path) -> None:
    rng = random.Random(SEED)
    with deployment(tmp_path) as parts:
        models = parts.settings.models_root
        shutil.copytree(tiny_model, models / "tiny")
        operator = Operator(parts.url, token(parts, "operator", Role.ADMIN))
        base = operator.post("/checkpoints", {"name": "tiny", "source": "tiny"})["id"]
        drawn = operator.submit("sample", {"checkpoint_id": base, "n": N_SAMPLES, "steps": 5}, "samples to rate")
        undisturbed = operator.submit("finetune", finetune_spec(base), "undisturbed")
        for job_id in (drawn, undisturbed):
            assert operator.finish(job_id, seconds=120)["status"] == "succeeded"
        campaign = operator.post(
            "/campaigns",
            {"name": "Chaos", "question": "Which?", "checkpoint_ids": [base], "open": True, "overlap": 3},
        )["id"]
        raters = [
            Rater(parts.url, token(parts, f"rater {number}", Role.RATER), campaign, random.Random(number))
            for number in range(3)
        ]
        for rater in raters:
            rater.start()
        seconds_until("sixty votes", lambda: sum(len(rater.promised) for rater in raters) >= 60)

        recoveries: list[tuple[str, float]] = []
        for number, part in enumerate(plan(rng)):
            operator.submit("finetune", finetune_spec(base), f"finetune {number}")
            if number % 3 == 0:
                operator.submit("reward_model", {"campaign_id": campaign, "ensemble": 2}, f"reward model {number}")
            seconds_until("a job runs", lambda: running(parts))
            time.sleep(rng.uniform(0, 4))
            if part == "child":
                seconds_until("a child to kill", lambda: parts.kill("child"))
            else:
                parts.kill(part)
                time.sleep(rng.uniform(0, 2))
                parts.start(part)
            votes, work = sum(len(rater.promised) for rater in raters), work_done(parts)
            took = seconds_until(
                "votes are taken again",
                lambda: sum(len(rater.promised) for rater in raters) > votes,  # noqa: B023
            )
            took += seconds_until("jobs get on again", lambda: work_done(parts) > work)  # noqa: B023
            recoveries.append((part, took))

        finals = {job_id: operator.finish(job_id, seconds=600) for job_id in operator.accepted}
        for rater in raters:
            rater.stop()

        if REPORT:
            report(Path(REPORT), recoveries, raters, finals)
        assert {job["status"] for job in finals.values()} == {"succeeded"}, [
            (job["name"], job["error"]) for job in finals.values() if job["status"] != "succeeded"
        ]
        with parts.database.reader() as session:
            stored = {str(row.comparison_id): row.choice.value for row in session.scalars(select(Preference))}
            jobs = sorted(str(job_id) for job_id in session.scalars(select(Job.id)))
        promised = {comparison: choice for rater in raters for comparison, choice in rater.promised.items()}
        assert sum(len(rater.promised) for rater in raters) == len(promised)
        assert stored == promised
        assert jobs == sorted(operator.accepted)
        expected = weights(parts, undisturbed)
        assert len(expected) == EPOCHS // 4
        for job_id, job in finals.items():
            if job["kind"] == JobKind.FINETUNE.value:
                assert weights(parts, job_id) == expected, job["name"]
        assert doctor.examine(parts.database, parts.blobs).problems == []
