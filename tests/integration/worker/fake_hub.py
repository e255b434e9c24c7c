"""A hub on this machine that speaks as much of the Hugging Face protocol as a push needs, and keeps what it gets."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_right"


@dataclass
class Hub:
    """`files` are those of the last commit by path; `private` is what the repository was made as."""

    url: str = ""
    private: bool | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    refuse_with: int | None = None

    def write_to(self, folder: Path) -> Path:
        """The repository as a clone would have it."""
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_PUT(self) -> None:
            body = self._body()
            hub.objects[hashlib.sha256(body).hexdigest()] = body
            self._answer({})

        def do_GET(self) -> None:
            self._answer({"error": "not found"}, 404)

        def do_POST(self) -> None:
            body = self._body()
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._answer({"error": "Invalid credentials"}, 401)
            elif hub.refuse_with is not None:
                self._answer({"error": "no"}, hub.refuse_with)
            elif self.path.endswith("/repos/create"):
                hub.private = json.loads(body).get("private") or json.loads(body).get("visibility") == "private"
                self._answer({"url": f"{hub.url}/lab/model"})
            elif self.path.endswith("/api/validate-yaml"):
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = {True: "lfs", False: "regular"}
                self._answer({"files": [
                    {"path": f["path"], "uploadMode": modes[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                    for f in files
                ]})  # fmt: skip
            elif self.path.endswith("/info/lfs/objects/batch"):
                self._answer({"transfer": "basic", "objects": [
                    {"oid": item["oid"], "size": item["size"],
                     "actions": {"upload": {"href": f"{hub.url}/objects/{item['oid']}"}}}
                    for item in json.loads(body)["objects"]
                ]})  # fmt: skip
            elif "/commit/" in self.path:
                self._commit(body)
            else:
                self._answer({"error": "not found"}, 404)

        def _commit(self, body: bytes) -> None:
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    hub.messages.append(value["summary"])
                elif item["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            url = f"{hub.url}/lab/model/commit/{'c' * 40}"
            self._answer({"success": True, "commitOid": "c" * 40, "commitUrl": url})

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("content-length", 0)))

        def _answer(self, value: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
