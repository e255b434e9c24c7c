"""`tastemaker doctor`: checks every reference between rows and every hash, and says what to do about what it finds.

It may run beside a working system: rows are read at one moment, and a blob that is missing is only reported if the row
still wants it afterwards.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import READINESS_PROBE, BlobStore, sha256_of
from app.db.migrate import known_revisions
from app.db.models import LabelSnapshot
from app.db.queries import integrity, portable_rows
from app.db.queries.blob_refs import BlobReference, BlobRole, blob_references, still_referenced
from app.db.queries.integrity import Broken
from app.db.session import Database
from app.domain.errors import CorruptDataError, NotFoundError, TastemakerError
from app.services.backup import describe
from app.services.blob_needs import needed_blobs

_RULES: tuple[tuple[Callable[[Session], Broken], str, str], ...] = (
    (
        integrity.event_gaps,
        "{n} jobs have a log with gaps or a wrong count",
        "Their history cannot be trusted to be whole; restore a backup if it matters.",
    ),
    (
        integrity.miscounted_pairs,
        "{n} pairs count other leases than there are",
        "They would be shown too often or too seldom; report this as a defect with the ids.",
    ),
    (
        integrity.miscounted_campaigns,
        "{n} campaigns count other leases than there are",
        "Their budget would end too early or too late; report this as a defect with the ids.",
    ),
    (integrity.overspent_campaigns, "{n} campaigns passed their budget", "Report this as a defect with the ids."),
    (
        integrity.votes_without_lease,
        "{n} votes do not belong to a closed comparison of their rater",
        "Leave them out of what you train on; report this as a defect with the ids.",
    ),
    (
        integrity.leases_without_vote,
        "{n} comparisons were closed by a vote that is not there",
        "Votes may have been lost; restore a backup if there is a newer one than the loss.",
    ),
    (
        integrity.sides_not_of_the_pair,
        "{n} comparisons showed other samples than their pair's",
        "Leave their votes out of what you train on; report this as a defect with the ids.",
    ),
    (
        integrity.ordinals_beyond_count,
        "{n} checkpoints have more samples than they count",
        "Drawing from them will fail; report this as a defect with the ids.",
    ),
)


@dataclass
class Diagnosis:
    """What was looked at and what is wrong. `problems` are whole sentences; none means healthy."""

    n_rows: int = 0
    n_blobs: int = 0
    n_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    n_orphans: int = 0
    """Blobs that no row needs: harmless, left by jobs that were stopped halfway or are at work now."""
    orphan_bytes: int = 0


def examine(database: Database, blobs: BlobStore) -> Diagnosis:
    """Check everything. Reads every blob, so it takes as long as reading the store does."""
    diagnosis = Diagnosis()
    with database.reader() as session:
        connection = session.connection()
        portable_rows.use_one_snapshot(connection)
        found = portable_rows.revision(connection)
        if found != known_revisions()[0]:
            diagnosis.problems.append(
                f"The database is at migration {found or 'none'}, this version needs {known_revisions()[0]}: "
                "run `tastemaker migrate`, then `tastemaker doctor` again."
            )
            return diagnosis
        diagnosis.n_rows = integrity.row_count(session)
        diagnosis.problems += _check_rows(session)
        references = list(blob_references(session))
        label_counts = {row.id: row.n_labels for row in session.query(LabelSnapshot)}
    _check_blobs(database, blobs, references, label_counts, diagnosis)
    return diagnosis


def _check_rows(session: Session) -> Iterator[str]:
    for table, columns, parent, broken in integrity.dangling_references(session):
        yield (
            f"{broken.n} rows of {table} name a {parent} ({columns}) that is not there, for example "
            f"{broken.examples[0]}. The database was changed by hand or damaged; restore a backup."
        )
    for check, finding, advice in _RULES:
        broken = check(session)
        if broken.n:
            yield f"{finding.format(n=broken.n)}, for example {', '.join(broken.examples)}. {advice}"


def _check_blobs(
    database: Database,
    blobs: BlobStore,
    references: list[BlobReference],
    label_counts: dict[UUID, int],
    diagnosis: Diagnosis,
) -> None:
    verdicts: dict[str, TastemakerError | None] = {}
    suspects: list[tuple[BlobReference, TastemakerError]] = []
    for reference, needed in needed_blobs(blobs, references):
        if isinstance(needed, TastemakerError):
            suspects.append((reference, needed))
            continue
        if needed not in verdicts:
            verdicts[needed] = _check_hash(blobs, needed, diagnosis)
        problem = verdicts[needed]
        if problem is None and reference.role is BlobRole.LABELS:
            problem = _check_labels(blobs, needed, label_counts[reference.row_id])
        if problem is not None:
            suspects.append((reference, problem))
    with database.reader() as session:
        current = still_referenced(session, [reference for reference, _ in suspects])
    diagnosis.problems += [describe(reference, problem) for reference, problem in suspects if reference in current]
    probe = sha256_of(READINESS_PROBE)
    for name, size in blobs.names():
        if name not in verdicts and name != probe:
            diagnosis.n_orphans += 1
            diagnosis.orphan_bytes += size


def _check_hash(blobs: BlobStore, digest: str, diagnosis: Diagnosis) -> TastemakerError | None:
    try:
        diagnosis.n_bytes += blobs.verify(digest)
    except (NotFoundError, CorruptDataError) as error:
        return error
    diagnosis.n_blobs += 1
    return None


def _check_labels(blobs: BlobStore, digest: str, n_labels: int) -> TastemakerError | None:
    lines = blobs.get(digest).splitlines()
    try:
        for line in lines:
            json.loads(line)
    except ValueError:
        return CorruptDataError(f"Blob {digest[:12]} is not JSON lines; restore it from a backup.")
    if len(lines) != n_labels:
        return CorruptDataError(f"It should hold {n_labels} labels and holds {len(lines)}; restore it from a backup.")
    return None
