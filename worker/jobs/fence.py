"""Keeps a worker that has lost its job from writing: every write checks the claim in its own transaction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.clock import Clock
from app.db.queries import jobs as queries
from app.db.queries.jobs import Claim
from app.db.session import Database
from app.domain.enums import EventKind


class LostClaimError(Exception):
    """This attempt no longer holds its job: it was finished, requeued or claimed again. Whoever sees it stops at once.

    Deliberately outside `TastemakerError`: it is nobody's failure and is recorded nowhere.
    """

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"attempt {claim.attempt} of job {claim.job_id} has lost its claim")


class Fence:
    """One claim and the only ways to write under it."""

    def __init__(self, database: Database, claim: Claim, clock: Clock) -> None:
        self.claim = claim
        self._database = database
        self._clock = clock

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends well; the job's row stays locked until then.

        Raises:
            LostClaimError: the claim is lost; nothing was written.
        """
        with self._database.writer() as session:
            if queries.held(session, self.claim) is None:
                raise LostClaimError(self.claim)
            yield session

    def event(self, session: Session, kind: EventKind, payload: Mapping[str, Any]) -> None:
        """Append to the job's log inside a transaction of this fence."""
        queries.append_event(session, self.claim.job_id, kind, payload, self._clock.now())

    def cancel_requested(self) -> bool:
        """Whether somebody asked this job to stop.

        Raises:
            LostClaimError: the claim is lost.
        """
        with self._database.reader() as session:
            cancel_requested = queries.cancel_requested(session, self.claim)
        if cancel_requested is None:
            raise LostClaimError(self.claim)
        return cancel_requested
