"""An S3-compatible server from a package (moto's), as a process of its own that forgets everything when it ends."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from uuid import uuid4

import httpx

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tastemaker",
    "AWS_SECRET_ACCESS_KEY": "tastemaker-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,  # not those of whoever runs the tests
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ObjectStore:
    """A running server, until the `with` block ends; `url` is its endpoint.

    It takes requests that are not signed, which lets a test look at it past our own code.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "moto.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
                cwd=folder,
                env=os.environ | (environment or {}),
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def new_bucket(self) -> str:
        bucket = f"test-{uuid4().hex}"
        httpx.put(f"{self.url}/{bucket}").raise_for_status()
        return bucket

    def put(self, path: str, data: bytes) -> None:
        """Store an object as another host would: past every cache of this process."""
        httpx.put(f"{self.url}/{path}", content=data).raise_for_status()

    def uploads(self, bucket: str) -> int:
        """Uploads in several parts that were begun and neither completed nor given up."""
        return httpx.get(f"{self.url}/{bucket}?uploads").raise_for_status().text.count("<UploadId>")

    def _wait(self, *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                httpx.get(self.url, timeout=5)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, self._log.read_text(errors="replace")
                assert time.monotonic() < deadline, "the object store does not answer"
                time.sleep(0.05)
