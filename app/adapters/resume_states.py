"""Deleting the resumable states of jobs once no job points at them."""

from app.adapters.blobs import BlobStore
from app.db.queries import jobs as queries
from app.db.session import Database


def delete_state(database: Database, blobs: BlobStore, sha256: str | None) -> None:
    """Delete a state that no job points at. Equal jobs have equal states, hence the question."""
    if sha256 is None:
        return
    with database.reader() as session:
        if queries.resume_state_in_use(session, sha256):
            return
    blobs.delete(sha256)
