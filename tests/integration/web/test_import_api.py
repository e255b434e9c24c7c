"""Exports come back: the same votes, raters, sides and statistics, from every format, into this or another campaign."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, select

from app.adapters.blobs import BlobStore
from app.client.client import TastemakerClient
from app.client.votes import import_file
from app.config import Settings
from app.db.models import Campaign, Comparison, GoldPair, Pair, Preference, Retraction, Sample, User
from app.db.queries import integrity
from app.db.session import Database
from app.domain import pairing
from app.domain.enums import Role
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]
FORMATS = ("jsonl", "parquet", "datasets")
SAMPLES = 14


@pytest.fixture
def operator(sign_in: Callable[..., Headers]) -> Headers:
    return sign_in(Role.OPERATOR, "olga")


def new_campaign(client: TestClient, operator: Headers, checkpoint_id: Any, **more: Any) -> str:
    body = {"name": "Näme", "question": "?", "open": True, "checkpoint_ids": [str(checkpoint_id)], "overlap": 2, **more}
    return str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])


@pytest.fixture
def base(database: Database, settings: Settings) -> UUID:
    return add_checkpoint(database, settings, seeds=range(SAMPLES))


@pytest.fixture
def campaign(
    client: TestClient, operator: Headers, base: UUID, sign_in: Callable[..., Headers], database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> str:  # fmt: skip
    """Votes of three raters with repeats and gold; one of them retracted."""
    monkeypatch.setattr(pairing, "REPEATS_BEGIN_AFTER", 12)
    monkeypatch.setattr(pairing, "REPEAT_SHARE", 0.3)
    monkeypatch.setattr(pairing, "GOLD_SHARE", 0.3)
    id = new_campaign(client, operator, base)
    with database.reader() as session:
        samples = list(session.scalars(select(Sample.id).order_by(Sample.ordinal)))
    for better, worse in ((0, 1), (3, 2)):
        body = {"better_sample_id": str(samples[better]), "worse_sample_id": str(samples[worse])}
        assert client.post(f"/api/v1/campaigns/{id}/gold", json=body, headers=operator).status_code == 201
    rng = Random(0)
    for name in ("ada", "bob", "cy"):
        who = sign_in(Role.RATER, name)
        for _ in range(9):
            for pair in client.post(f"/api/v1/campaigns/{id}/comparisons?n=3", headers=who).json():
                body = {"choice": rng.choice(["left", "right", "tie"]), "response_ms": 900}
                client.put(f"/api/v1/comparisons/{pair['id']}/preference", json=body, headers=who)
    with database.reader() as session:
        cy = session.scalars(select(User.id).where(User.name == "cy")).one()
    client.put(f"/api/v1/campaigns/{id}/raters/{cy}/retraction", json={}, headers=operator)
    return id


def export(client: TestClient, campaign: str, operator: Headers, format: str) -> bytes:
    answer = client.get(f"/api/v1/campaigns/{campaign}/export", params={"format": format}, headers=operator)
    assert answer.status_code == 200
    return bytes(answer.content)


def send(client: TestClient, campaign: str, operator: Headers, data: bytes) -> Any:
    return client.post(f"/api/v1/campaigns/{campaign}/import", content=data, headers=operator)


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def stats(client: TestClient, campaign: str, operator: Headers) -> dict[str, Any]:
    found = client.get(f"/api/v1/campaigns/{campaign}/stats", headers=operator).json()
    for rater in found["raters"]:
        del rater["name"]
    return {key: value for key, value in found.items() if key not in ("campaign_id", "verdict")}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a JSON document with the way to it."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_and_deleted_comes_home_unchanged(
    client: TestClient, campaign: str, operator: Headers, database: Database, format: str
):
    data = export(client, campaign, operator, format)
    before, rows = stats(client, campaign, operator), lines(export(client, campaign, operator, "jsonl"))
    assert sum(row["repeat_of"] is not None for row in rows) > 0
    assert sum(row["gold"] is not None for row in rows) > 0
    assert sum(row["retracted"] for row in rows) == 27
    assert send(client, campaign, operator, data).json() == {"imported": 0, "known": 81, "raters": 3, "retracted": 0}
    with database.writer() as session:
        for table in (Preference, Comparison, GoldPair, Pair, Retraction):
            session.execute(delete(table))
        session.get_one(Campaign, UUID(campaign)).n_leased = 0
    answer = send(client, campaign, operator, data)
    assert (answer.status_code, answer.json()) == (200, {"imported": 81, "known": 0, "raters": 3, "retracted": 1})
    assert dict(leaves(stats(client, campaign, operator))) == pytest.approx(dict(leaves(before)))  # sums in new order
    new_pairs = {"pair_id": None}  # a pair is named anew; everything else is what it was
    again = lines(export(client, campaign, operator, "jsonl"))
    assert [row | new_pairs for row in again] == [row | new_pairs for row in rows]
    with database.reader() as session:
        assert integrity.miscounted_pairs(session).n == integrity.miscounted_campaigns(session).n == 0


def test_another_deployment_finds_samples_by_their_images_and_makes_raters_nobody_can_sign_in_as(
    client: TestClient, campaign: str, operator: Headers, database: Database
):
    rows = lines(export(client, campaign, operator, "jsonl"))
    for row in rows:  # what differs elsewhere: ids of samples, and pseudonyms, which hang on the deployment's secret
        for side in ("left", "right"):
            row[f"{side}_sample_id"] = str(UUID(int=UUID(row[f"{side}_sample_id"]).int ^ 1))
        row["rater"] = row["rater"][::-1]
        row["campaign_id"] = str(UUID(int=7))
    with database.reader() as session:
        base = session.scalars(select(Sample.checkpoint_id).limit(1)).one()
    there = new_campaign(client, operator, base)
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    for imported, known, retracted in ((81, 0, 1), (0, 81, 0)):
        expected = {"imported": imported, "known": known, "raters": 3, "retracted": retracted}
        assert send(client, there, operator, data).json() == expected
    ours, theirs = (stats(client, id, operator) for id in (campaign, there))
    for key in ("votes", "choices", "self_consistency", "left_bias", "gold_votes", "retracted_votes"):
        assert theirs[key] == ours[key], key
    assert theirs["agreement"]["value"] == pytest.approx(ours["agreement"]["value"])
    with database.reader() as session:
        strangers = list(session.scalars(select(User).where(User.name.startswith("imported "))))
        assert len(strangers) == 3
        assert all(user.password_hash is None and user.role is Role.RATER for user in strangers)


def test_repeats_of_showings_that_are_here_under_other_ids_are_repeats_of_those(
    client: TestClient, campaign: str, operator: Headers, base: UUID
):
    rows = lines(export(client, campaign, operator, "jsonl"))
    firsts = [row for row in rows if row["repeat_of"] is None]
    there = new_campaign(client, operator, base)
    data = b"".join(json.dumps(row).encode() + b"\n" for row in firsts)
    assert send(client, there, operator, data).json()["imported"] == len(firsts)
    for row in rows:
        for name in ("comparison_id", "repeat_of"):
            row[name] = row[name] and str(UUID(int=UUID(row[name]).int ^ 1))
    answer = send(client, there, operator, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert answer.status_code == 200, answer.text
    assert answer.json()["imported"] == len(rows) - len(firsts) > 0


def test_an_import_ends_nobodys_part_whose_votes_count_here(client: TestClient, campaign: str, operator: Headers):
    rows = lines(export(client, campaign, operator, "jsonl"))
    gone, counts = (next(row["rater"] for row in rows if row["retracted"] is flag) for flag in (True, False))
    row = next(row for row in rows if row["rater"] == counts and not row["repeat_of"] and not row["gold"])
    new = row | {"comparison_id": str(uuid4()), "retracted": True, "rater": counts}
    new |= {"left_sample_id": row["right_sample_id"], "left_sha256": row["right_sha256"]}
    other = next(r for r in rows if r["rater"] == gone and r["left_sample_id"] != new["left_sample_id"])
    new |= {"right_sample_id": other["left_sample_id"], "right_sha256": other["left_sha256"]}
    before = stats(client, campaign, operator)["retracted_votes"]
    answer = send(client, campaign, operator, json.dumps(new).encode())
    assert (answer.status_code, answer.json()["retracted"]) == (200, 0), answer.text
    assert stats(client, campaign, operator)["retracted_votes"] == before


def test_a_person_who_has_an_imported_raters_name_gets_none_of_their_votes(
    client: TestClient,
    campaign: str,
    operator: Headers,
    database: Database,
    base: UUID,
    sign_in: Callable[..., Headers],
):
    row = next(row for row in lines(export(client, campaign, operator, "jsonl")) if not row["repeat_of"])
    row |= {"campaign_id": str(UUID(int=7)), "rater": "zoe"}
    sign_in(Role.RATER, "imported zoe")
    there = new_campaign(client, operator, base)
    assert send(client, there, operator, json.dumps(row).encode()).json()["imported"] == 1
    with database.reader() as session:
        (voter,) = session.scalars(
            select(User.name).join(Preference, Preference.rater_id == User.id)
            .where(Preference.campaign_id == UUID(there))
        )  # fmt: skip
    assert voter == "imported zoe (2)"
    assert send(client, there, operator, json.dumps(row).encode()).json()["known"] == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"created_at": "0001-01-01T00:00:00Z"}, "created_at: Value error, the year must be 2000 to 2100"),
        ({"leased_at": "0001-01-01T00:00:00+14:00"}, "the year must be"),
        ({"updated_at": "9999-12-31T23:59:59-12:00"}, "the year must be"),
    ],
)
def test_moments_that_no_clock_shows_are_refused(
    client: TestClient, campaign: str, operator: Headers, change: dict[str, str], sentence: str
):
    row = next(row for row in lines(export(client, campaign, operator, "jsonl")) if not row["repeat_of"])
    row |= {"comparison_id": str(uuid4())} | change
    answer = send(client, campaign, operator, json.dumps(row).encode())
    assert (answer.status_code, sentence in answer.text) == (422, True), answer.text
    assert client.get(f"/api/v1/campaigns/{campaign}/stats", headers=operator).status_code == 200


def test_one_comparison_with_two_contents_is_refused_and_twice_the_same_is_one(
    client: TestClient, campaign: str, operator: Headers, base: UUID
):
    row = next(row for row in lines(export(client, campaign, operator, "jsonl")) if not row["repeat_of"])
    there = new_campaign(client, operator, base)
    other = row | {"rater": "somebody-else"}
    answer = send(client, there, operator, b"\n".join(json.dumps(each).encode() for each in (row, other)))
    assert (answer.status_code, "Vote 2" in answer.text) == (422, True), answer.text
    answer = send(client, there, operator, b"\n".join(json.dumps(each).encode() for each in (row, row)))
    assert answer.json()["imported"] == 1
    repeat = row | {"comparison_id": str(uuid4()), "repeat_of": row["comparison_id"], "repetition": 1}
    wrong = repeat | {"rater": "somebody-else"}
    answer = send(client, there, operator, b"\n".join(json.dumps(each).encode() for each in (row, wrong)))
    assert (answer.status_code, "of another rater" in answer.text) == (422, True), answer.text


def test_a_vote_between_a_sample_and_itself_is_refused(client: TestClient, campaign: str, operator: Headers):
    row = lines(export(client, campaign, operator, "jsonl"))[0] | {"comparison_id": str(uuid4())}
    row |= {"right_sample_id": row["left_sample_id"], "right_sha256": row["left_sha256"]}
    answer = send(client, campaign, operator, json.dumps(row).encode())
    assert (answer.status_code, "one sample twice" in answer.text) == (422, True)


def test_the_folder_is_laid_out_as_datasets_wants_it(
    client: TestClient, campaign: str, operator: Headers, settings: Settings
):
    """`imagefolder`: a metadata file whose `*_file_name` columns are paths beside it."""
    rows = lines(export(client, campaign, operator, "jsonl"))
    with zipfile.ZipFile(io.BytesIO(export(client, campaign, operator, "datasets"))) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        assert len(names) == len(set(names))
        metadata = lines(archive.read("train/metadata.jsonl"))
        for row, plain in zip(metadata, rows, strict=True):
            for side in ("left", "right"):
                image = archive.read(f"train/{row.pop(f'{side}_file_name')}")
                assert image == BlobStore(settings.blob_root).get(row[f"{side}_sha256"])
            assert row == plain
        about = json.loads(archive.read("campaign.json"))
        assert (about["name"], about["question"], list(about["checkpoints"].values())) == ("Näme", "?", ["base"])
        assert archive.read("README.md").startswith(b"---\n")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PAR1 not really", "Parquet file cannot be read"),
        (b"PK\x03\x04 not really", "zip file cannot be read"),
        (b"not json\n", "Line 1 is not JSON"),
        (b'{"comparison_id": "7"}\n', "Vote 1 is not one of an export: comparison_id"),
        (b"[" * 100_000, "Line 1 is not JSON"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(
    client: TestClient, operator: Headers, base: UUID, data: bytes, says: str
):
    answer = send(client, new_campaign(client, operator, base), operator, data)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_an_import_that_does_not_fit_leaves_nothing_behind(
    client: TestClient, campaign: str, operator: Headers, base: UUID, database: Database,
    sign_in: Callable[..., Headers], settings: Settings,
):  # fmt: skip
    data = export(client, campaign, operator, "jsonl")
    small = new_campaign(client, operator, base, budget=80)
    other = new_campaign(client, operator, add_checkpoint(database, settings, "other"))
    repeats_only = b"\n".join(line for line in data.splitlines() if json.loads(line)["repeat_of"])
    cases = (
        (small, data, operator, 409, "budget"),
        (other, data, operator, 422, "not among the samples"),
        (new_campaign(client, operator, base), repeats_only, operator, 422, "neither in this file nor here"),
        (str(uuid4()), data, operator, 404, "no such campaign"),
        (small, data, sign_in(Role.RATER, "ada"), 403, ""),
    )
    for campaign_id, body, who, status, says in cases:
        answer = send(client, campaign_id, who, body)
        assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    client.post(f"/api/v1/campaigns/{small}/close", headers=operator)
    assert send(client, small, operator, data).status_code == 409
    with database.reader() as session:
        assert session.scalar(select(func.count()).select_from(Preference)) == 81


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_sends_a_file_in_parts(
    client: TestClient, campaign: str, operator: Headers, base: UUID, tmp_path: Path, format: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr("app.client.votes._ROWS_A_CALL", 20)
    path = tmp_path / "votes"
    path.write_bytes(export(client, campaign, operator, format))
    there = new_campaign(client, operator, base)
    token = operator["Authorization"].removeprefix("Bearer ")

    def pass_on(request: httpx.Request) -> httpx.Response:  # the test client speaks httpx2, ours httpx
        answer = client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    with TastemakerClient("http://testserver", token, transport=httpx.MockTransport(pass_on)) as remote:
        assert import_file(remote, there, path)["imported"] == 81
        assert import_file(remote, there, path)["known"] == 81


def test_a_parquet_file_that_would_unpack_to_gigabytes_is_refused(client: TestClient, campaign: str, operator: Headers):
    names = ["comparison_id", "rater"]
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 1_000_000]))
    lists = pa.array([["a"]] * 10)
    big = pa.array([str(number) * 3000 for number in range(10_000, 18_000)])
    for columns, reason in (
        ([long, long], "more than 10,000 bytes"),
        ([lists, lists], "type list"),
        ([pa.array([b"x" * 20_000] * 1000, kind) for kind in (pa.large_binary(), pa.binary())], "type large_binary"),
        ([pa.array([b"x" * 20_000] * 1000, kind) for kind in (pa.binary(20_000), pa.binary())], "type fixed_size"),
        ([big, big], "more than 100 MB"),
    ):
        file = io.BytesIO()
        pq.write_table(pa.table(columns, names=names), file, compression="zstd", use_dictionary=columns[0] is not big)
        assert len(file.getvalue()) < 1_000_000
        answer = send(client, campaign, operator, file.getvalue())
        assert answer.status_code == 422
        assert reason in answer.json()["detail"]
