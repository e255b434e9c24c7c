"""Child processes that run one job each, so that a crash, a leak or an out-of-memory kill ends with the job.

Importing torch and diffusers takes ten seconds of processor time, longer than many jobs. So children are forked from a
server that has imported them and does nothing else: it never runs a tensor operation and never touches a GPU, hence
CUDA, which does not survive a fork, begins afresh in every child.
"""

import importlib
import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

_PRELOAD = ["worker.jobs.child"]

# diffusers asks for a GPU as it is imported. By default the question itself starts CUDA, and no forked child could use
# it any more; asked through NVML, it does not (see torch.cuda.is_available).
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOAD)


def start_server() -> None:
    """Begin the imports now rather than with the first job."""
    forkserver.ensure_running()


def wait_for_server() -> None:
    """Return once the server can fork, which it cannot while it imports."""
    probe = _context.Process(target=os.getpid)
    probe.start()
    probe.join()


class ChildProcess:
    """A forked child that calls a function of a module, which only it imports: the worker itself has no torch."""

    def __init__(self, module: str, function: str, *arguments: object) -> None:
        self._process: ForkServerProcess = _context.Process(target=_call, args=(module, function, *arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None if it still runs after `seconds`."""
        self._process.join(seconds)
        return self._process.exitcode

    def end(self) -> None:
        """Kill the child and whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # it may not have made its group yet
        self._process.join()


def _call(module: str, function: str, *arguments: object) -> None:
    getattr(importlib.import_module(module), function)(*arguments)
