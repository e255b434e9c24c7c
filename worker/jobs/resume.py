"""The resumable state of a long job: one blob, replaced by each newer one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.adapters.resume_states import delete_state
from app.db.models import Job
from app.db.queries import jobs as queries
from app.domain.errors import NotFoundError
from worker.jobs.context import JobContext


@contextmanager
def work_folder(context: JobContext) -> Iterator[Path]:
    """An empty folder of the job's own; what a killed attempt left there is removed first."""
    folder = context.settings.cache_dir / "jobs" / str(context.job.id)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_state(context: JobContext, path: Path) -> None:
    """Make `path` the job's resumable state, and delete the one before."""
    new = context.blobs.put_file(path)
    with context.fence.transaction() as session:
        old = session.get_one(Job, context.job.id).resume_sha256
        queries.set_resume_state(session, context.job.id, new)
    delete_state(context.database, context.blobs, old)


def state_file(folder: Path) -> Path:
    """Where `load_state` puts the state in a job's work folder."""
    return folder / "resume"


def load_state(context: JobContext, folder: Path) -> Path | None:
    """The state that an earlier attempt saved, as a file in `folder`; None where there is none.

    Raises:
        CorruptDataError: the blob does not have its hash; starting the job over is the way out.
    """
    sha256 = context.job.resume_sha256
    if sha256 is None:
        return None
    path = state_file(folder)
    try:
        context.blobs.download(sha256, path)
    except NotFoundError:
        context.monitor.log("The resumable state is gone from the blob store; the job starts over.")
        return None
    return path
