"""One job on several devices of this machine: its child process is rank 0 and starts a process for each other rank.

The other ranks write nothing. They live and die with rank 0: when it ends, however it ends, they are ended. When one
of them fails, the job fails with its reason; when one is killed, rank 0 ends too, and the job is queued again.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import torch

from app.config import Settings
from app.db.models import Job
from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.domain.enums import JobStatus
from app.domain.errors import JobError, TastemakerError
from app.logs import configure_logging, job_id
from worker.jobs.context import JobContext
from worker.jobs.fence import Fence, LostClaimError
from worker.jobs.monitor import JobMonitor
from worker.jobs.processes import ChildProcess
from worker.jobs.runtime import open_runtime
from worker.ml.ranks import AccelerateRanks, Alone, Ranks

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LAST_WORDS_SECONDS = 5.0  # a rank that failed is still writing down why when the others notice


@dataclass(frozen=True)
class Seat:
    """Where one rank sits. `folder` is the job's own, on a disk that all ranks of the machine see."""

    folder: Path
    index: int
    devices: tuple[str, ...]

    def join(self) -> AccelerateRanks:
        return AccelerateRanks(
            self.folder / "rendezvous",
            index=self.index,
            count=len(self.devices),
            device=torch.device(self.devices[self.index]),
        )

    @property
    def reason_file(self) -> Path:
        return self.folder / f"rank-{self.index}.reason"


def devices_of(settings: Settings, device: str) -> tuple[str, ...]:
    """One device for each rank: every GPU that the worker sees, unless the settings say how many or which one."""
    if device == "cuda":
        found = torch.cuda.device_count()
        return tuple(f"cuda:{index}" for index in range(min(settings.finetune_ranks or found, found)))
    return (device,) * (max(1, settings.finetune_ranks) if device == "cpu" else 1)


@contextmanager
def joined(context: JobContext, folder: Path, *, module: str, function: str) -> Iterator[Ranks]:
    """Rank 0's view of the ranks that share this job.

    Each of the others calls `function` of `module` with the settings, the claim and its `Seat`.

    Raises:
        JobError: another rank failed; says which and why.
    """
    devices = devices_of(context.settings, context.device)
    if len(devices) == 1:
        yield Alone()
        return
    _share_cores(len(devices))
    seats = [Seat(folder, index, devices) for index in range(len(devices))]
    arguments = (context.settings, context.fence.claim)
    others = {seat: ChildProcess(module, function, *arguments, seat) for seat in seats[1:]}
    over = threading.Event()
    threading.Thread(target=_watch, args=(context, others, over), name="ranks", daemon=True).start()
    try:
        ranks = seats[0].join()
        yield ranks
        ranks.leave()
    except RuntimeError as error:  # what a collective raises when another rank has gone
        failed = _first_to_fail(others, patience=_LAST_WORDS_SECONDS)
        if failed is None:
            raise
        if (reason := _reason_of(failed)) is None:
            raise SystemExit(1) from error
        raise JobError(reason) from error
    finally:
        over.set()
        for other in others.values():
            other.end()


@contextmanager
def seated(settings: Settings, claim: Claim, seat: Seat) -> Iterator[JobContext]:
    """The life of another rank: a context like rank 0's, for reading; what goes wrong is written down for rank 0."""
    with suppress(OSError):  # into rank 0's group, where it leads one, to be ended with it
        os.setpgid(0, _parent_id())
    threading.Thread(target=_end_with_rank_0, name="leash", daemon=True).start()
    configure_logging()
    job_id.set(str(claim.job_id))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // settings.worker_concurrency))
    _share_cores(len(seat.devices))
    try:
        runtime = open_runtime(settings)
        fence = Fence(runtime.database, claim, runtime.clock)
        with runtime.database.reader() as session:
            job = session.get_one(Job, claim.job_id)
        yield JobContext(
            settings=settings,
            database=runtime.database,
            blobs=runtime.blobs,
            clock=runtime.clock,
            fence=fence,
            monitor=JobMonitor(fence, runtime.clock),
            job=job,
            device=seat.devices[seat.index],
        )
    except BaseException as error:
        logger.exception("rank %d ends early", seat.index)
        reason = error.detail if isinstance(error, TastemakerError) else f"{type(error).__name__}: {error}"
        seat.reason_file.write_text(reason, encoding="utf-8")
        os._exit(1)  # Python's own way out would wait for the other ranks


def _watch(context: JobContext, others: dict[Seat, ChildProcess], over: threading.Event) -> None:
    """End the job when another rank has failed while rank 0 waits for it, which no exception can interrupt."""
    while not over.wait(_LOOK_SECONDS):
        failed = _first_to_fail(others, patience=0.0)
        if failed is None or over.wait(_LAST_WORDS_SECONDS):
            continue
        reason = _reason_of(failed)
        logger.error("job %s: %s", context.job.id, reason or f"rank {failed.index} was killed")
        if reason is not None:
            with suppress(LostClaimError), context.fence.transaction() as session:
                queries.finish(session, context.job.id, JobStatus.FAILED, context.clock.now(), error=reason)
        os.killpg(0, signal.SIGKILL)


def _first_to_fail(others: dict[Seat, ChildProcess], *, patience: float) -> Seat | None:
    """A rank that has ended otherwise than well."""
    for seat, other in others.items():
        if other.wait(patience / len(others)):
            return seat
    return None


def _reason_of(failed: Seat) -> str | None:
    """What a rank wrote down before it ended; None where it was killed."""
    if not failed.reason_file.exists():
        return None
    reason = failed.reason_file.read_text(encoding="utf-8")
    return f"Rank {failed.index} of {len(failed.devices)} (on {failed.devices[failed.index]}) failed: {reason}"


def _share_cores(ranks: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))


def _parent_id() -> int:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    return parent.pid


def _end_with_rank_0() -> None:
    rank_0 = multiprocessing.parent_process()
    assert rank_0 is not None
    wait([rank_0.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
