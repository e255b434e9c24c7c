"""`python -m worker` and the options of `celery worker`: Celery's worker, started afresh where it gives up.

A broker that is killed at the wrong moment can end it: kombu closes a connection twice and fails on its way.
"""

import logging
import os
import sys
import time

from celery.bin.celery import main as celery_main
from celery.signals import worker_ready

logger = logging.getLogger(__name__)
_SECONDS_BEFORE_ANOTHER = 1.0


def main() -> None:
    """Run until asked to stop. One that never came up ends with its own exit code: starting it again would not help."""
    was_up: list[bool] = []

    def remember(**_: object) -> None:
        was_up.append(True)

    worker_ready.connect(remember)
    options = sys.argv[1:]
    sys.argv = ["celery", "--app", "worker.celery_app", "worker", *options]
    code: object = 0
    try:
        celery_main()
    except SystemExit as ended:
        code = ended.code
    if code and was_up:
        logger.error("the worker gave up (exit code %s) and is started again", code)
        time.sleep(_SECONDS_BEFORE_ANOTHER)
        os.execv(sys.executable, [sys.executable, "-m", "worker", *options])  # the same process to whoever watches it
    sys.exit(code)  # type: ignore[arg-type]  # what SystemExit carried


if __name__ == "__main__":
    main()
