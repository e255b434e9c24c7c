"""Weights from a hub: what is told meanwhile, and what becomes of a file that arrives damaged."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

WEIGHTS = bytes(range(256)) * 90_000  # 23 MB: the client reads 10 MB at once
DIGESTS = {name: hashlib.sha256(name + WEIGHTS[7:]).hexdigest() for name in (b"weights", b"damaged")}
SCRIPT = """
import json, sys
from pathlib import Path
from app.domain.errors import TastemakerError
from worker.ml.rewards.host import HubFile, RewardHost, download

told = []
for name in ("weights.bin", "weights.bin", "damaged.bin", "absent.bin"):
    try:
        path = download(RewardHost(log=told.append), HubFile("lab/model", name), put_at=f"model/{name}")
        told.append(f"{name}: {len(path.read_bytes())} bytes")
    except TastemakerError as error:
        told.append(f"{name}: {type(error).__name__}: {error}")
print(json.dumps(told))
"""


class Handler(BaseHTTPRequestHandler):
    """As much of a hub as a download needs: large files are announced with the SHA-256 of their bytes."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self._head():
            self.wfile.write(b"weights" + WEIGHTS[7:])

    def _head(self) -> bool:
        found = self.path in ("/lab/model/resolve/main/weights.bin", "/lab/model/resolve/main/damaged.bin")
        self.send_response(200 if found or self.path == "/" else 404)
        digest = DIGESTS[b"damaged" if "damaged" in self.path else b"weights"]
        headers = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(WEIGHTS)),
                   "X-Repo-Commit": "c" * 40, "Content-Length": str(len(WEIGHTS))}  # fmt: skip
        if self.path != "/" and not found:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c" * 40, "Content-Length": "0"}
        for name, value in (headers if self.path != "/" else {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()
        return found


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=20)


def test_a_download_tells_its_progress_happens_once_and_keeps_nothing_damaged(hub: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=240,
        cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    size = f"{len(WEIGHTS) / 1e6:.1f} MB"
    assert told[0] == f"Downloading weights.bin of lab/model ({size}) from the hub."
    assert any(line.startswith("Downloading: ") and line.endswith(f" % of {size}.") for line in told[1:])
    assert [line for line in told if line.startswith("weights.bin:")] == [f"weights.bin: {len(WEIGHTS)} bytes"] * 2
    assert told.count(told[0]) == 1, "the second time it came from the cache"
    (damaged,) = [line for line in told if line.startswith("damaged.bin:")]
    assert damaged.startswith("damaged.bin: CorruptDataError: damaged.bin of lab/model arrived damaged")
    (absent,) = [line for line in told if line.startswith("absent.bin:")]
    assert absent.startswith("absent.bin: UnavailableError: absent.bin of lab/model could not be downloaded")
    assert "TASTEMAKER_WEIGHTS_DIR" in absent
