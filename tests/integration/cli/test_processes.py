"""Supervised programs stop in order, come back when they fall over, and cannot outlive their supervisor."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from app.cli import processes
from app.cli.processes import Program, Supervisor

_SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_stop_ends_a_program_that_ignores_the_polite_signal(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    before = {child.pid for child in _children()}
    supervisor = Supervisor(os.environ, stop_seconds=0.2)
    supervisor.start(Program("stubborn", [sys.executable, "-c", stubborn], log))
    assert _until(lambda: log.read_text() == "up\n")
    supervisor.stop()
    assert {child.pid for child in _children()} == before


def test_a_program_that_ends_is_started_again(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(processes, "_MIN_RESTART_SECONDS", 0.0)
    log = tmp_path / "log"
    supervisor = Supervisor(os.environ, stop_seconds=1)
    supervisor.start(Program("sleeper", _SLEEP, log))
    try:
        assert _until(lambda: log.read_text() == "up\n")
        assert supervisor.restart_ended() == []
        (child,) = [child for child in _children() if "time.sleep(600)" in " ".join(child.cmdline())]
        child.kill()
        assert _until(lambda: supervisor.exit_code("sleeper") is not None)
        (message,) = supervisor.restart_ended()
        assert "SIGKILL" in message
        assert str(log) in message
        assert _until(lambda: log.read_text() == "up\nup\n")
    finally:
        supervisor.stop()


def test_programs_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from app.cli.processes import Program, Supervisor\n"
        f"Supervisor(os.environ).start(Program('sleeper', {_SLEEP!r}, Path({str(log)!r})))\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert _until(lambda: log.exists() and log.read_text() == "up\n")
        (grandchild,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)
        assert _until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.wait(10)
