"""Sends a job's id to the broker under its task name. The web process never imports the worker."""

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from app.domain.enums import JobKind, WorkQueue
from app.domain.errors import UnavailableError

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


class JobQueue:
    """A Celery producer. A message is a task name and a job id, in JSON."""

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._celery: Celery | None = None

    def send(self, queue: WorkQueue, kind: JobKind, job_id: UUID) -> bool:
        """Hand the id to the broker. Returns whether it took it: a job row that stays queued is sent again later by
        the reaper, so a broker that is away loses nothing and raises nothing."""
        try:
            self._app().send_task(
                kind.task_name, args=[str(job_id)], queue=queue.channel, retry=False, ignore_result=True
            )
        except Exception as error:
            logger.warning("broker away, job %s waits in the database: %s", job_id, error)
            return False
        return True

    def waiting(self) -> dict[WorkQueue, int]:
        """How many messages of each queue no worker has taken yet.

        Raises:
            UnavailableError: the broker does not answer.
        """
        try:
            with self._app().connection_for_write(connect_timeout=2) as connection:
                connection.ensure_connection(max_retries=0, timeout=2)
                channel = connection.default_channel
                return {queue: int(channel.queue_declare(queue=queue.channel).message_count) for queue in WorkQueue}
        except Exception as error:
            raise UnavailableError(f"The broker does not answer: {error}") from error

    def check(self) -> None:
        """Raise UnavailableError unless the broker answers."""
        try:
            with self._app().connection_for_write(connect_timeout=2) as connection:
                connection.ensure_connection(max_retries=0, timeout=2)
        except Exception as error:
            raise UnavailableError(f"The broker does not answer: {error}") from error

    def _app(self) -> "Celery":
        if self._celery is None:
            from celery import (
                Celery,
            )  # importing Celery takes a third of a second that `import app.main` can do without

            self._celery = Celery("tastemaker", broker=self._broker_url)
            self._celery.conf.update(
                task_serializer="json",
                accept_content=["json"],
                task_ignore_result=True,
                broker_connection_timeout=2,
                # a broker that is away is asked once: the reaper sends again, and somebody waits for an answer
                broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 2, "max_retries": 0},
            )
        return self._celery
