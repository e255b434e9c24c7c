"""`make demo` as a newcomer meets it: one address that works once, Ctrl-C that leaves nothing, data that stays."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

_COMMAND = [sys.executable, "-m", "app.cli", "demo"]
_LOGIN = re.compile(r"http://127\.0\.0\.1:\d+/login\?token=\S+")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(data_dir: Path, port: int) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TASTEMAKER_")}
    return {**kept, "TASTEMAKER_DATA_DIR": str(data_dir), "TASTEMAKER_PORT": str(port), "COLUMNS": "200"}


@contextmanager
def _demo(data_dir: Path, port: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running demo and the address that it printed."""
    with log.open("wb") as out:
        process = subprocess.Popen(_COMMAND, env=_environment(data_dir, port), stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while not (found := _LOGIN.search(log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, found.group()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _still_running(family: list[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _sign_in(url: str) -> httpx.Client:
    client = httpx.Client(base_url=url.split("/login")[0], follow_redirects=True, headers={"accept": "text/html"})
    assert client.get(url).status_code == 200
    return client


def test_the_demo_starts_stops_and_keeps_everything(tmp_path: Path) -> None:
    data_dir, port, log = tmp_path / "data", _free_port(), tmp_path / "log"
    with _demo(data_dir, port, log) as (process, url):
        with closing(_sign_in(url)) as browser:
            (campaign,) = browser.get("/api/v1/campaigns").json()["items"]
            assert browser.get(f"/rate/{campaign['id']}").status_code == 200
            samples = browser.get("/api/v1/samples", params={"limit": 200}).json()["items"]
            assert len(samples) == 64
        with httpx.Client() as stranger:  # the link is used up
            assert stranger.get(url, headers={"accept": "text/html"}).status_code == 401
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # broker, worker, web, and what they started
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        # whoever adopts the worker's helpers may take a moment to bury them
        assert _still_running(family, seconds=5) == []

    with _demo(data_dir, port, log) as (_, url), closing(_sign_in(url)) as browser:
        assert [item["id"] for item in browser.get("/api/v1/campaigns").json()["items"]] == [campaign["id"]]
        again = browser.get("/api/v1/samples", params={"limit": 200}).json()["items"]
        assert {sample["sha256"] for sample in again} == {sample["sha256"] for sample in samples}


def test_a_port_that_is_taken_gets_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = subprocess.run(_COMMAND, env=_environment(tmp_path, port), capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"tastemaker: Port {port} is taken by another program.")
    assert f"TASTEMAKER_PORT={port + 1}" in answer.stderr


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    environment = _environment(blocked / "data", _free_port())
    answer = subprocess.run(_COMMAND, env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert "set TASTEMAKER_DATA_DIR" in answer.stderr


@pytest.mark.parametrize("role", ["admin", "operator", "rater"])
def test_a_token_is_printed_alone(tmp_path: Path, role: str) -> None:
    environment = _environment(tmp_path / "data", _free_port())
    subprocess.run([sys.executable, "-m", "app.cli", "migrate"], env=environment, check=True, capture_output=True)
    command = [sys.executable, "-m", "app.cli", "token", "create", "--role", role, "--name", "ada"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"tm_[\w-]{43}\n", answer.stdout)
