"""Content-addressed storage in a folder or an S3-compatible bucket: a blob's name is the SHA-256 of its bytes.

A blob takes its name once all of it is there and has that hash, so a name that exists is whole; what is read is checked
against its name again, so a torn or tampered blob is refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec

from app.domain.errors import ConflictError, CorruptDataError, NotFoundError, UnavailableError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
_FRESH = timedelta(hours=12)
"""An object that is older is written again when it is stored again: object stores have no other way to touch one."""

READINESS_PROBE = b"tastemaker readiness probe"
"""The blob that `check` writes; no row refers to it."""


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class BlobStore:
    """Put bytes, get them back by hash."""

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        """Nothing is asked of the store yet. A bucket that cannot be used makes every method raise UnavailableError."""
        self._where = f"{url} at {endpoint_url}" if endpoint_url else url
        self._is_bucket = url.startswith("s3://")
        options: dict[str, Any] = {}
        if self._is_bucket:
            from app.adapters import buckets  # botocore takes a while to load

            options = buckets.options(endpoint_url)
        self._fs, self._root = fsspec.core.url_to_fs(url, **options)

    def put(self, data: bytes) -> str:
        """Store `data`; storing it again is free. Returns its SHA-256 in hex."""
        digest = sha256_of(data)
        if not self._keep(digest):
            self._write(digest, iter([data]))
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file without holding it in memory."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if not self._keep(digest):
                stream.seek(0)
                self._write(digest, iter(lambda: stream.read(_CHUNK), b""))
        return digest

    def put_json(self, value: Any) -> str:
        """Store a JSON document in one canonical spelling, so that equal documents have equal names."""
        return self.put(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())

    def get(self, digest: str) -> bytes:
        """The bytes of a blob.

        Raises:
            NotFoundError: there is no such blob.
            CorruptDataError: its bytes do not have this hash.
        """
        path = self._path(digest)
        try:
            with self._reaching():
                data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise self._no_such(digest) from error
        if sha256_of(data) != digest:
            raise _torn(digest)
        return data

    def get_json(self, digest: str) -> Any:
        return json.loads(self.get(digest))

    def download(self, digest: str, target: Path) -> None:
        """Copy a blob to `target`, checking its hash; `target` appears only when whole."""
        partial = target.with_name(f".{target.name}.{uuid4().hex}")
        hasher = hashlib.sha256()
        try:
            with partial.open("wb") as out:
                for chunk in self._chunks(digest):
                    hasher.update(chunk)
                    out.write(chunk)
            if hasher.hexdigest() != digest:
                raise _torn(digest)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, digest: str) -> BinaryIO:
        """A readable binary stream. The hash is not checked; use `get` or `download` where it matters."""
        path = self._path(digest)
        try:
            with self._reaching():
                stream: BinaryIO = self._fs.open(path, "rb")
        except FileNotFoundError as error:
            raise self._no_such(digest) from error
        return stream

    def exists(self, digest: str) -> bool:
        path = self._path(digest)
        with self._reaching():
            return bool(self._fs.exists(path))

    def size(self, digest: str) -> int:
        """Bytes. Raises NotFoundError."""
        path = self._path(digest)
        try:
            with self._reaching():
                return int(self._fs.size(path))
        except FileNotFoundError as error:
            raise self._no_such(digest) from error

    def verify(self, digest: str) -> int:
        """Read a blob and check its hash. Returns its size in bytes; raises as `get` does."""
        hasher, n = hashlib.sha256(), 0
        for chunk in self._chunks(digest):
            hasher.update(chunk)
            n += len(chunk)
        if hasher.hexdigest() != digest:
            raise _torn(digest)
        return n

    def names(self) -> Iterator[tuple[str, int]]:
        """Every blob in the store with its size in bytes, folder by folder; half-written files are left out."""
        try:
            with self._reaching():
                folders = sorted(self._fs.ls(self._root, detail=False))
        except FileNotFoundError:
            self._require_bucket()
            return  # nothing was stored yet
        for folder in folders:
            with self._reaching():
                found = self._fs.find(folder, detail=True)
            for path, info in found.items():
                name = path.rpartition("/")[2]
                if _SHA256.fullmatch(name):
                    yield name, int(info["size"])

    def delete(self, digest: str) -> None:
        """Delete a blob; one that is not there is deleted already."""
        path = self._path(digest)
        with suppress(FileNotFoundError), self._reaching():
            self._fs.rm_file(path)

    def delete_if_older(self, digest: str, moment: datetime) -> None:
        """Delete a blob that was last stored (again) before `moment`."""
        stored_at = self._stored_at(digest)
        if stored_at is not None and stored_at < moment:
            self.delete(digest)

    def check(self) -> None:
        """Raise UnavailableError unless the store can be written and read."""
        try:
            self.get(self.put(READINESS_PROBE))
        except UnavailableError:
            raise
        except Exception as error:
            raise UnavailableError(f"The blob store at {self._where} cannot be used: {error}") from error

    def _chunks(self, digest: str) -> Iterator[bytes]:
        with self.open(digest) as stream:
            while True:
                with self._reaching():
                    chunk = stream.read(_CHUNK)
                if not chunk:
                    return
                yield chunk

    def _keep(self, digest: str) -> bool:
        """Whether the blob is there; it then counts as stored just now, so that nobody who cleans up removes it."""
        if self._is_bucket:
            stored_at = self._stored_at(digest)
            return stored_at is not None and datetime.now(UTC) - stored_at < _FRESH
        try:
            os.utime(self._path(digest))
        except FileNotFoundError:
            return False
        return True

    def _stored_at(self, digest: str) -> datetime | None:
        path = self._path(digest)
        try:
            with self._reaching():
                stored_at: datetime = self._fs.modified(path)
        except FileNotFoundError:
            return None
        return stored_at

    def _path(self, digest: str) -> str:
        if not _SHA256.fullmatch(digest):
            raise NotFoundError("That is not the name of a blob: expected 64 hexadecimal digits.")
        return f"{self._root}/{digest[:2]}/{digest}"

    def _write(self, digest: str, chunks: Iterator[bytes]) -> None:
        """Store `chunks` under `digest`, or nothing where they break off or have another hash."""
        if self._is_bucket:
            self._upload(digest, _checked(digest, chunks))
            return
        path = self._path(digest)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        partial = Path(f"{path}.{uuid4().hex}.partial")
        try:
            with partial.open("wb") as out:
                for chunk in _checked(digest, chunks):
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _upload(self, digest: str, chunks: Iterator[bytes]) -> None:
        """A bucket shows a key once the upload is complete, and closing the stream completes it."""
        try:
            with self._reaching():
                stream = self._fs.open(self._path(digest), "wb")
            try:
                for chunk in chunks:
                    with self._reaching():
                        stream.write(chunk)
                with self._reaching():
                    stream.close()
            except BaseException:
                stream.closed = True  # from here on nothing closes it, not even the garbage collector
                with suppress(UnavailableError, FileNotFoundError), self._reaching():
                    stream.discard()
                raise
        except FileNotFoundError as error:
            self._require_bucket()
            raise UnavailableError(f"The blob store {self._where} took no blob: {error}") from error

    def _reaching(self) -> AbstractContextManager[None]:
        """Around every call to the file system. A folder's errors stay what they are."""
        if not self._is_bucket:
            return nullcontext()
        from app.adapters import buckets

        return buckets.errors_as_sentences(self._where)

    def _no_such(self, digest: str) -> NotFoundError:
        self._require_bucket()
        return NotFoundError(f"There is no blob {digest[:12]}; it may have been deleted.")

    def _require_bucket(self) -> None:
        """A blob that is not found may lack no less than its bucket. Raises UnavailableError."""
        if not self._is_bucket:
            return
        bucket = self._root.partition("/")[0]
        try:
            with self._reaching():
                self._fs.info(bucket)
        except FileNotFoundError as error:
            raise UnavailableError(
                f"The blob store {self._where} cannot be used: there is no bucket {bucket!r}. Make it, or correct "
                "TASTEMAKER_BLOB_URL."
            ) from error


def _checked(digest: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass `chunks` on; raise at their end if they have another hash: a file that was changed while it was stored."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != digest:
        raise ConflictError("A file was changed while it was being stored; try again when nothing writes to it.")


def _torn(digest: str) -> CorruptDataError:
    return CorruptDataError(f"Blob {digest[:12]} does not match its hash; restore it from a backup.")
