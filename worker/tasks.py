"""The Celery tasks: one a kind of job, each a name and a job id, nothing else."""

from uuid import UUID

from celery import Celery

from app.domain.jobs import SUPPORTED_JOB_KINDS
from worker.jobs.runner import run_job
from worker.jobs.runtime import current_runtime


def run(job_id: str) -> None:
    run_job(current_runtime(), UUID(job_id))


def register_tasks(app: Celery) -> None:
    for kind in SUPPORTED_JOB_KINDS:
        app.task(run, name=kind.task_name)
