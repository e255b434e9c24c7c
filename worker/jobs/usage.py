"""What a job uses of its machine: processor, memory and GPU, measured from outside the process that runs it."""

import shutil
import subprocess
import time
from typing import Any

import psutil

_FIRST_PERIOD_SECONDS = 10.0
_SHARE_OF_AGE = 0.02  # an older job reports less often: a day's job logs a few hundred rows, not ten thousand
_GPU_QUERY = "utilization.gpu,memory.used,memory.total"


class UsageMeter:
    """Measures a process with all it has started. `reading` is None until it is time for the next one."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._processes: dict[int, psutil.Process] = {}
        self._started = self._last = time.monotonic()
        self._peak = 0
        self._nvidia_smi = shutil.which("nvidia-smi")
        self._measure_processes()  # a first look: processor use is counted between two

    def reading(self) -> dict[str, Any] | None:
        now = time.monotonic()
        memory, cpu = self._measure_processes() if self._is_due(now) else (None, None)
        if memory is None:
            return None
        self._last = now
        self._peak = max(self._peak, memory)
        machine = psutil.virtual_memory()
        return {
            "cpu_percent": cpu,
            "cores": psutil.cpu_count() or 1,
            "memory_bytes": memory,
            "peak_memory_bytes": self._peak,
            "machine_memory_bytes": machine.total - machine.available,
            "machine_memory_total_bytes": machine.total,
            **self._gpu(),
        }

    def _is_due(self, now: float) -> bool:
        return now - self._last >= max(_FIRST_PERIOD_SECONDS, _SHARE_OF_AGE * (now - self._started))

    def _measure_processes(self) -> tuple[int | None, float | None]:
        """(resident bytes, processor use in percent of one core) of the process and its children; None once it has
        ended."""
        try:
            root = psutil.Process(self._pid)
            found = {process.pid: process for process in [root, *root.children(recursive=True)]}
        except psutil.NoSuchProcess:
            return None, None
        self._processes = {pid: self._processes.get(pid, process) for pid, process in found.items()}
        memory, cpu = 0, 0.0
        for process in self._processes.values():
            try:
                memory += process.memory_info().rss
                cpu += process.cpu_percent()
            except psutil.NoSuchProcess:
                continue
        return memory, cpu

    def _gpu(self) -> dict[str, Any]:
        """The first GPU as nvidia-smi sees it; nothing without one."""
        if self._nvidia_smi is None:
            return {}
        command = [self._nvidia_smi, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
            percent, used, total = (float(part) for part in answer.splitlines()[0].split(","))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            self._nvidia_smi = None  # no driver: do not ask again
            return {}
        return {
            "gpu_percent": percent,
            "gpu_memory_bytes": int(used * 2**20),
            "gpu_memory_total_bytes": int(total * 2**20),
        }
