"""Child processes that cannot outlive us: started in their own group, killed by the kernel when we die, stopped in
order, restarted when they fall over."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_MIN_RESTART_SECONDS = 2.0


@dataclass(frozen=True)
class Program:
    """What to run and where its output goes."""

    name: str
    command: Sequence[str]
    log: Path


def share_metrics(data_dir: Path) -> None:
    """Have the web processes to be started count into files of one fresh folder, so that each can answer for all."""
    folder = (data_dir / "cache" / "metrics").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


class Supervisor:
    """Keeps a few programs running until `stop`."""

    def __init__(self, environment: Mapping[str, str], *, stop_seconds: float = 10.0) -> None:
        self._environment = dict(environment)
        self._stop_seconds = stop_seconds
        self._running: dict[str, tuple[Program, subprocess.Popen[bytes], float]] = {}

    def start(self, program: Program) -> None:
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            process = subprocess.Popen(
                list(program.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent if _LIBC is not None else None,
            )
        self._running[program.name] = (program, process, time.monotonic())

    def exit_code(self, name: str) -> int | None:
        """The exit code of a program that has ended, else None."""
        return self._running[name][1].poll()

    def restart_ended(self) -> list[str]:
        """Start again what has ended. Returns what was restarted, in words; too quick an end is left for next time."""
        messages = []
        for name, (program, process, started) in list(self._running.items()):
            code = process.poll()
            if code is None or time.monotonic() - started < _MIN_RESTART_SECONDS:
                continue
            self.start(program)
            messages.append(f"{name} ended ({_describe_exit(code)}) and was started again; its log is {program.log}")
        return messages

    def stop(self) -> None:
        """Stop everything, last started first: TERM, then KILL for whole process groups that do not go."""
        for _, process, _ in reversed(self._running.values()):
            if process.poll() is None:
                _signal_group(process, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self._stop_seconds)
            _signal_group(process, signal.SIGKILL)
            process.wait()
        self._running.clear()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _die_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
