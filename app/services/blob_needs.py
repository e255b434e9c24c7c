"""Which blobs a row needs: its own, and those that are named inside it."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from app.adapters import checkpoint_store
from app.adapters.blobs import BlobStore
from app.db.queries.blob_refs import BlobReference, BlobRole
from app.domain.errors import CorruptDataError, NotFoundError, TastemakerError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def needed_blobs(
    blobs: BlobStore, references: Iterable[BlobReference]
) -> Iterator[tuple[BlobReference, str | TastemakerError]]:
    """Each reference with the digests it needs, one at a time: its own, and those that a manifest or analysis names.

    In place of what is named in a blob that cannot be read comes the error.
    """
    read: set[str] = set()
    for reference in references:
        yield reference, reference.digest
        if reference.role not in _NAMES_OTHERS or reference.digest in read:
            continue
        read.add(reference.digest)
        try:
            named = _NAMES_OTHERS[reference.role](blobs, reference.digest)
        except NotFoundError:
            continue  # the blob itself is reported as missing
        except (CorruptDataError, ValueError) as error:
            yield reference, error if isinstance(error, TastemakerError) else CorruptDataError(str(error))
            continue
        for digest in named:
            yield reference, digest


def _files(blobs: BlobStore, manifest_sha256: str) -> list[str]:
    return list(checkpoint_store.manifest_files(blobs, manifest_sha256).values())


def _pictures(blobs: BlobStore, analysis_sha256: str) -> list[str]:
    """Every digest in an analysis: the pictures that it drew, and samples'."""
    return sorted(set(_digests_in(blobs.get_json(analysis_sha256))))


def _digests_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _digests_in(item)


_NAMES_OTHERS: dict[BlobRole, Callable[[BlobStore, str], list[str]]] = {
    BlobRole.MANIFEST: _files,
    BlobRole.ANALYSIS: _pictures,
}
