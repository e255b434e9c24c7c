"""Tells the web process which rewards this worker knows and can run: `python -m worker.jobs.publish_rewards`."""

import dataclasses
import platform
from datetime import datetime, timedelta

from sqlalchemy import select

from app.config import get_settings
from app.db.models import RewardAvailability
from app.db.queries.bulk import insert_or_ignore
from worker.jobs.runtime import Runtime, open_runtime
from worker.ml.rewards import RewardHost, RewardInfo, catalogue

_BELIEVED_FOR = timedelta(days=7)
"""How long a host's word counts that it can run a reward; it gives it anew whenever a worker starts there."""


def publish(runtime: Runtime, *, host: str | None = None) -> None:
    """Bring one row a reward up to date: it can run where any of the hosts that have reported lately can run it."""
    host, now = host or platform.node(), runtime.clock.now()
    known = {info.name: info for info in catalogue(RewardHost(runtime.settings.weights_dir))}
    new = [{"name": info.name, "info": _told(info), "updated_at": now} for info in known.values()]
    with runtime.database.writer() as session:
        insert_or_ignore(session, RewardAvailability, new)  # another worker may start at the same moment
        for row in session.scalars(select(RewardAvailability).order_by(RewardAvailability.name).with_for_update()):
            info, able = known.get(row.name), _able(row, now)
            if info is not None and info.can_run:
                able[host] = now.isoformat()
            else:
                able.pop(host, None)
            if info is None and not able:
                session.delete(row)  # a plugin that is installed nowhere any more
                continue
            is_anothers = info is None or (bool(able) and not info.can_run)  # what a host that can run it said holds
            row.info = (dict(row.info) if is_anothers or info is None else _told(info)) | {"able": able}
            row.updated_at = now


def _able(row: RewardAvailability, now: datetime) -> dict[str, str]:
    """Hosts that can run it, and when they last said so."""
    said = row.info.get("able", {})
    return {host: when for host, when in said.items() if now - datetime.fromisoformat(when) < _BELIEVED_FOR}


def _told(info: RewardInfo) -> dict[str, object]:
    return dataclasses.asdict(info)


if __name__ == "__main__":
    publish(open_runtime(get_settings()))
