"""Tells the web process which rewards this worker knows and can run: `python -m worker.jobs.publish_rewards`."""

import dataclasses

from app.config import get_settings
from app.db.models import RewardAvailability
from app.db.queries.bulk import insert_or_update
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.rewards import RewardHost, catalogue


def publish(runtime: Runtime) -> None:
    """Write one row a reward; a later report replaces an earlier one."""
    now = runtime.clock.now()
    host = RewardHost(runtime.settings.weights_dir)
    rows = [{"name": info.name, "info": dataclasses.asdict(info), "updated_at": now} for info in catalogue(host)]
    with runtime.database.writer() as session:
        insert_or_update(session, RewardAvailability, rows)


if __name__ == "__main__":
    publish(open_runtime(get_settings()))
