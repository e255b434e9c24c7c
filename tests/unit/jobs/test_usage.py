"""What a job uses of its machine, measured on real processes."""

import subprocess
import sys

import pytest

from worker.jobs import usage
from worker.jobs.usage import UsageMeter

_HELD = 120_000_000
_PROGRAM = f"""
import subprocess, sys
held = bytearray(b'x') * {_HELD}
child = subprocess.Popen([sys.executable, '-c', "held = bytearray(b'x') * {_HELD}; print(1, flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print('ready', flush=True)
sys.stdin.readline()
child.communicate(b'')
"""


def test_memory_is_that_of_the_process_and_of_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_FIRST_PERIOD_SECONDS", 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        meter = UsageMeter(process.pid)
        reading = meter.reading()
        assert reading is not None
        assert 2 * _HELD < reading["memory_bytes"] < 2 * _HELD + 150e6
        assert reading["peak_memory_bytes"] == reading["memory_bytes"] < reading["machine_memory_total_bytes"]
        process.communicate("\n")
    assert meter.reading() is None, "a process that has ended uses nothing"


def test_readings_keep_their_distance() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert UsageMeter(process.pid).reading() is None
        process.communicate(b"\n")
