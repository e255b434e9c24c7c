"""The export: every vote, the same in both formats, raters under pseudonyms; and the label snapshot."""

import io
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db.models import Comparison, User
from app.db.queries.snapshot import votes_for_snapshot
from app.db.session import Database
from app.domain.enums import Role
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


@pytest.fixture
def campaign(
    client: TestClient, operator: Headers, database: Database, settings: Settings, sign_in: Callable[..., Headers]
) -> str:
    """Ten votes by two raters."""
    body = {"name": "n", "question": "?", "open": True, "checkpoint_ids": [str(add_checkpoint(database, settings))]}
    id = str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])
    for name, choice in (("ada", "left"), ("bob", "tie")):
        headers = sign_in(Role.RATER, name)
        for pair in client.post(f"/api/v1/campaigns/{id}/comparisons?n=5", headers=headers).json():
            client.put(f"/api/v1/comparisons/{pair['id']}/preference", json={"choice": choice}, headers=headers)
    return id


def export(client: TestClient, campaign: str, operator: Headers, format: str) -> bytes:
    answer = client.get(f"/api/v1/campaigns/{campaign}/export", params={"format": format}, headers=operator)
    assert answer.status_code == 200
    return bytes(answer.content)


def test_json_lines_hold_every_vote_with_what_a_fit_needs(
    client: TestClient, campaign: str, operator: Headers, database: Database
):
    rows = [json.loads(line) for line in export(client, campaign, operator, "jsonl").splitlines()]
    assert len(rows) == 10
    for row in rows:
        with database.reader() as session:
            lease = session.get_one(Comparison, UUID(row["comparison_id"]))
        assert (row["left_sample_id"], row["right_sample_id"]) == (
            str(lease.left_sample_id),
            str(lease.right_sample_id),
        )
        assert row["selection_probability"] == pytest.approx(1 / 28)
        assert row["created_at"] == "2026-01-01T00:00:00Z"
    assert {row["choice"] for row in rows} == {"left", "tie"}


def test_raters_stand_under_pseudonyms_that_tell_nothing(
    client: TestClient, campaign: str, operator: Headers, database: Database
):
    text = export(client, campaign, operator, "jsonl").decode()
    by_choice: dict[str, set[str]] = {"left": set(), "tie": set()}
    for line in text.splitlines():
        row = json.loads(line)
        by_choice[row["choice"]].add(row["rater"])
    assert [len(names) for names in by_choice.values()] == [1, 1]
    assert by_choice["left"] != by_choice["tie"]
    with database.reader() as session:
        for user in session.scalars(select(User)):
            assert str(user.id) not in text
            assert user.id.hex not in text
            assert f'"{user.name}"' not in text


def test_parquet_holds_what_json_lines_hold(client: TestClient, campaign: str, operator: Headers):
    lines = [json.loads(line) for line in export(client, campaign, operator, "jsonl").splitlines()]
    table = pq.read_table(io.BytesIO(export(client, campaign, operator, "parquet")))
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        for name in ("leased_at", "created_at", "updated_at"):
            row[name] = row[name].isoformat().replace("+00:00", "Z")
    assert rows == lines


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_campaign_without_votes_exports_an_empty_file(
    client: TestClient, operator: Headers, database: Database, settings: Settings, format: str
):
    body = {"name": "n", "question": "?", "checkpoint_ids": [str(add_checkpoint(database, settings))]}
    campaign = client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"]
    data = export(client, campaign, operator, format)
    assert (data == b"") if format == "jsonl" else (pq.read_table(io.BytesIO(data)).num_rows == 0)


def test_another_format_is_refused(client: TestClient, campaign: str, operator: Headers):
    assert client.get(f"/api/v1/campaigns/{campaign}/export?format=xml", headers=operator).status_code == 422


def test_the_label_snapshot_is_the_same_each_time_and_names_images_by_hash(campaign: str, database: Database):
    with database.reader() as session:
        first, second = (votes_for_snapshot(session, UUID(campaign)) for _ in range(2))
    assert first == second
    assert len(first) == 10
    assert set(first[0]) == {
        "comparison_id", "rater", "left_sha256", "right_sha256", "left_sample_id", "right_sample_id", "choice",
        "is_random", "selection_probability", "repeat_of",
    }  # fmt: skip
    assert json.loads(json.dumps(first)) == first
