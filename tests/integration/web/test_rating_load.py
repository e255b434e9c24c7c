"""The load benchmark in short, on real web processes: the clients' own logs and the database agree vote for vote."""

import pytest

from benchmarks.rating_load import run


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_twenty_raters_at_once_lose_double_and_overstep_nothing(database: str) -> None:
    result = run(database, raters=20, seconds=3, think=0.2)
    assert result["votes"] > 20
    assert result["faults"] == dict.fromkeys(result["faults"], 0)
    assert result["errors_5xx"] == result["broken_connections"] == 0
    assert set(result["statuses"]) <= {"200", "204"}
