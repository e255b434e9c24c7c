"""The Celery application: `python -m worker --pool threads --concurrency N`.

Celery only carries ids to the runner. Importing this module opens nothing and does not import torch.
"""

import subprocess
import sys
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from app.config import get_settings
from app.domain.errors import UnavailableError
from app.logs import configure_logging
from worker.jobs.presence import announce, leave
from worker.jobs.processes import start_server
from worker.jobs.reaper import start_reaper
from worker.jobs.runtime import current_runtime
from worker.tasks import register_tasks

celery = Celery("tastemaker", broker=get_settings().celery_broker_url)
celery.conf.update(
    accept_content=["json"],  # never pickle: a message must not be able to run code
    task_serializer="json",
    task_ignore_result=True,
    # acknowledged before the job runs: Redis gives an unacknowledged message out again after an hour
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
register_tasks(celery)


def _log_as_everywhere(**_: Any) -> None:
    configure_logging()  # someone listening is what keeps Celery from setting up its own


def _require_database(**_: Any) -> None:
    try:
        current_runtime().check_database()
        refusal = announce(current_runtime())
    except UnavailableError as error:
        raise SystemExit(error.detail) from error
    if refusal is not None:
        raise SystemExit(refusal)


def _start_helpers(**_: Any) -> None:
    start_server()
    start_reaper(current_runtime())
    # a process of its own: listing the rewards imports what they need
    subprocess.Popen([sys.executable, "-m", "worker.jobs.publish_rewards"], stdin=subprocess.DEVNULL)


def _give_jobs_back(**_: Any) -> None:
    current_runtime().stopping.set()


def _leave(**_: Any) -> None:
    with suppress(SQLAlchemyError):  # the database may have ended before
        leave(current_runtime())


setup_logging.connect(_log_as_everywhere)
worker_init.connect(_require_database)
worker_ready.connect(_start_helpers)
worker_shutting_down.connect(_give_jobs_back)
worker_shutdown.connect(_leave)
