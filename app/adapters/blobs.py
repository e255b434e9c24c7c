"""Content-addressed storage on any fsspec file system: a blob's name is the SHA-256 of its bytes.

A blob is written under a temporary name and then moved into place, so a name that exists is whole; what is read is
checked against its name, so a torn or tampered blob is refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec

from app.domain.errors import CorruptDataError, NotFoundError, UnavailableError

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
        options: dict[str, Any] = {}
        if url.startswith("s3://") and endpoint_url:
            options["endpoint_url"] = endpoint_url
        self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        self._is_local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

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
        with self.open(digest) as stream:
            data: bytes = stream.read()
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
            with self.open(digest) as stream, partial.open("wb") as out:
                while chunk := stream.read(_CHUNK):
                    hasher.update(chunk)
                    out.write(chunk)
            if hasher.hexdigest() != digest:
                raise _torn(digest)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open(self, digest: str) -> BinaryIO:
        """A readable binary stream. The hash is not checked; use `get` or `download` where it matters."""
        try:
            stream: BinaryIO = self._fs.open(self._path(digest), "rb")
        except FileNotFoundError as error:
            raise _no_such_blob(digest) from error
        return stream

    def exists(self, digest: str) -> bool:
        return bool(self._fs.exists(self._path(digest)))

    def size(self, digest: str) -> int:
        """Bytes. Raises NotFoundError."""
        try:
            return int(self._fs.size(self._path(digest)))
        except FileNotFoundError as error:
            raise _no_such_blob(digest) from error

    def verify(self, digest: str) -> int:
        """Read a blob and check its hash. Returns its size in bytes; raises as `get` does."""
        hasher, n = hashlib.sha256(), 0
        with self.open(digest) as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
                n += len(chunk)
        if hasher.hexdigest() != digest:
            raise _torn(digest)
        return n

    def names(self) -> Iterator[tuple[str, int]]:
        """Every blob in the store with its size in bytes, folder by folder; half-written files are left out."""
        if not self._fs.exists(self._root):
            return
        for folder in sorted(self._fs.ls(self._root, detail=False)):
            for path, info in self._fs.find(folder, detail=True).items():
                name = path.rpartition("/")[2]
                if _SHA256.fullmatch(name):
                    yield name, int(info["size"])

    def delete(self, digest: str) -> None:
        if self.exists(digest):
            self._fs.rm_file(self._path(digest))

    def delete_if_older(self, digest: str, moment: datetime) -> None:
        """Delete a blob that was last stored (again) before `moment`."""
        try:
            stored_at = self._fs.modified(self._path(digest))
        except FileNotFoundError:
            return
        if stored_at < moment:
            self.delete(digest)

    def check(self) -> None:
        """Raise UnavailableError unless the store can be written and read."""
        try:
            self.get(self.put(READINESS_PROBE))
        except Exception as error:
            raise UnavailableError(f"The blob store at {self._root} cannot be used: {error}") from error

    def _keep(self, digest: str) -> bool:
        """Whether the blob is there; it then counts as stored just now, so that nobody who cleans up removes it."""
        path = self._path(digest)
        if not self._is_local:
            if not self._fs.exists(path):
                return False
            age: timedelta = datetime.now(UTC) - self._fs.modified(path)
            return age < _FRESH
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _path(self, digest: str) -> str:
        if not _SHA256.fullmatch(digest):
            raise NotFoundError("That is not the name of a blob: expected 64 hexadecimal digits.")
        return f"{self._root}/{digest[:2]}/{digest}"

    def _write(self, digest: str, chunks: Iterator[bytes]) -> None:
        path = self._path(digest)
        if not self._is_local:  # object stores publish a key only when the upload is complete
            with self._fs.open(path, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
            return
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        partial = Path(f"{path}.{uuid4().hex}.partial")
        try:
            with partial.open("wb") as out:
                for chunk in chunks:
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _no_such_blob(digest: str) -> NotFoundError:
    return NotFoundError(f"There is no blob {digest[:12]}; it may have been deleted.")


def _torn(digest: str) -> CorruptDataError:
    return CorruptDataError(f"Blob {digest[:12]} does not match its hash; restore it from a backup.")
