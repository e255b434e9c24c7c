"""Gold pairs, raters' health, retraction and retraining over REST and on the pages, on both databases."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.adapters.blobs import BlobStore
from app.config import Settings
from app.db.models import Comparison, GoldPair, Job, LabelSnapshot, RewardModel, Sample, SnapshotRater, User
from app.db.queries import integrity
from app.db.session import Database
from app.domain import pairing
from app.domain.enums import Role
from tests.integration.web.conftest import World
from tests.labeling_data import add_checkpoint

Headers = dict[str, str]


@pytest.fixture
def base(database: Database, settings: Settings) -> UUID:
    return add_checkpoint(database, settings, seeds=range(40))


@pytest.fixture
def campaign(client: TestClient, operator: Headers, base: UUID) -> str:
    body = {"name": "n", "question": "Which?", "open": True, "checkpoint_ids": [str(base)]}
    return str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])


def samples_of(database: Database, checkpoint_id: UUID) -> list[UUID]:
    with database.reader() as session:
        return list(
            session.scalars(select(Sample.id).where(Sample.checkpoint_id == checkpoint_id).order_by(Sample.ordinal))
        )


def mark(client: TestClient, campaign: str, operator: Headers, better: UUID, worse: UUID) -> Any:
    body = {"better_sample_id": str(better), "worse_sample_id": str(worse)}
    return client.post(f"/api/v1/campaigns/{campaign}/gold", json=body, headers=operator)


def lease(client: TestClient, campaign: str, who: Headers, n: int = 20) -> list[dict[str, Any]]:
    answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", params={"n": n}, headers=who)
    return answer.json() if answer.status_code == 200 else []


def vote(client: TestClient, pair: dict[str, Any], who: Headers, choice: str) -> None:
    answer = client.put(f"/api/v1/comparisons/{pair['id']}/preference", json={"choice": choice}, headers=who)
    assert answer.status_code == 204, answer.text


def rate(client: TestClient, campaign: str, who: Headers, n: int, choice: str = "left") -> None:
    for pair in lease(client, campaign, who, n):
        vote(client, pair, who, choice)


def user_id(database: Database, name: str) -> str:
    with database.reader() as session:
        return str(session.scalars(select(User.id).where(User.name == name)).one())


def test_every_rater_gets_each_gold_pair_once_and_nothing_in_the_answer_tells_it_from_others(
    client: TestClient, campaign: str, operator: Headers, sign_in: Callable[..., Headers], database: Database,
    base: UUID, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(pairing, "GOLD_SHARE", 0.5)
    ids = samples_of(database, base)
    for n in range(4):
        assert mark(client, campaign, operator, ids[2 * n], ids[2 * n + 1]).status_code == 201
    gold_ids: set[UUID] = set()
    for name in ("ada", "bob"):
        who = sign_in(Role.RATER, name)
        pairs = []
        for _ in range(3):
            answer = client.post(f"/api/v1/campaigns/{campaign}/comparisons", params={"n": 10}, headers=who)
            leased = answer.json()
            pairs += leased
            for pair in leased:
                image = client.get(pair["left"]["image"], headers=who)
                pair["seen"] = (sorted(image.headers), len(image.headers["content-type"]))
                vote(client, pair, who, "left")
        with database.reader() as session:
            leases = {pair["id"]: session.get_one(Comparison, UUID(pair["id"])) for pair in pairs}
            assert integrity.miscounted_pairs(session).n == integrity.miscounted_campaigns(session).n == 0
        is_gold = [leases[pair["id"]].is_gold for pair in pairs]
        assert sum(is_gold) == 4
        firsts = [lease for lease in leases.values() if lease.repeat_of is None]
        assert len({lease.pair_id for lease in firsts}) == len(firsts)
        assert len({(tuple(sorted(pair)), str(pair["seen"]), pair["question"]) for pair in pairs}) == 1
        gold_ids |= {lease.pair_id for lease in leases.values() if lease.is_gold}
        assert not any(lease.is_random for lease in leases.values() if lease.is_gold)
    assert len(gold_ids) == 4
    listed = client.get(f"/api/v1/campaigns/{campaign}/gold", headers=operator).json()["items"]
    assert [row["passed"]["n"] for row in listed] == [2, 2, 2, 2]
    with database.reader() as session:
        rows = session.execute(select(Comparison, GoldPair).join(GoldPair, GoldPair.pair_id == Comparison.pair_id))
        passed = sum(lease.left_sample_id == gold.better_sample_id for lease, gold in rows)
    assert round(sum(row["passed"]["value"] * 2 for row in listed)) == passed


def test_raters_cannot_reach_gold_or_health(client: TestClient, campaign: str, sign_in: Callable[..., Headers]):
    who = sign_in(Role.RATER, "ada")
    for method, path in (
        ("GET", "gold"), ("POST", "gold"), ("DELETE", f"gold/{uuid4()}"), ("GET", f"raters/{uuid4()}"),
        ("PUT", f"raters/{uuid4()}/retraction"), ("DELETE", f"raters/{uuid4()}/retraction"),
        ("POST", f"raters/{uuid4()}/retrain"), ("GET", "stats"), ("GET", "export"),
    ):  # fmt: skip
        body = {"json": {"better_sample_id": str(uuid4()), "worse_sample_id": str(uuid4())}} if method == "POST" else {}
        answer = client.request(method, f"/api/v1/campaigns/{campaign}/{path}", headers=who, **body)
        assert answer.status_code == 403, (method, path, answer.text)


def test_gold_must_be_two_samples_of_the_campaign_and_twins_in_a_tournament(
    client: TestClient, campaign: str, operator: Headers, database: Database, settings: Settings, base: UUID
):
    ids = samples_of(database, base)
    tuned = add_checkpoint(database, settings, "tuned", seeds=range(40))
    theirs = samples_of(database, tuned)
    assert mark(client, campaign, operator, ids[0], ids[0]).status_code == 422
    refused = mark(client, campaign, operator, ids[0], theirs[0])
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "worse_sample_id")
    body = {"name": "t", "question": "?", "checkpoint_ids": [str(base), str(tuned)], "strategy": "tournament"}
    tournament = str(client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"])
    assert mark(client, tournament, operator, theirs[0], ids[1]).status_code == 422
    assert mark(client, tournament, operator, theirs[0], ids[0]).status_code == 201


def test_a_retired_gold_pair_is_shown_no_more_and_can_come_back(
    client: TestClient, campaign: str, operator: Headers, sign_in: Callable[..., Headers], database: Database,
    base: UUID, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(pairing, "GOLD_SHARE", 1.0)
    a, b, *_ = samples_of(database, base)
    pair_id = mark(client, campaign, operator, a, b).json()["pair_id"]
    path = f"/api/v1/campaigns/{campaign}/gold/{pair_id}"
    assert client.delete(path, headers=operator).status_code == 204
    assert client.delete(path, headers=operator).status_code == 204
    assert client.delete(f"/api/v1/campaigns/{campaign}/gold/{uuid4()}", headers=operator).status_code == 404
    rate(client, campaign, sign_in(Role.RATER, "ada"), 5)
    again = mark(client, campaign, operator, b, a).json()
    assert (again["pair_id"], again["better_sample_id"], again["retired_at"]) == (pair_id, str(b), None)
    rate(client, campaign, sign_in(Role.RATER, "bob"), 5)
    (row,) = client.get(f"/api/v1/campaigns/{campaign}/gold", headers=operator).json()["items"]
    assert row["passed"]["n"] == 1


def make_reward_model(
    client: TestClient, campaign: str, operator: Headers, database: Database, world: World
) -> tuple[str, str]:
    """(reward model, job): the job as the API made it, and what a worker would have stored."""
    answer = client.post(
        "/api/v1/jobs", json={"kind": "reward_model", "spec": {"campaign_id": campaign}}, headers=operator
    )
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    with database.reader() as session:
        snapshot_id = UUID(session.get_one(Job, UUID(job_id)).inputs["snapshot_id"])
        n = session.get_one(LabelSnapshot, snapshot_id).n_labels
    world.now = world.now.replace(microsecond=world.now.microsecond + 1)
    model = RewardModel(
        id=uuid4(), job_id=UUID(job_id), campaign_id=UUID(campaign), snapshot_id=snapshot_id, name="taste",
        encoder="e", blob_sha256="0" * 64, n_labels=n,
        report={"calibration": [], "learning_curve": []}, created_at=world.now,
    )  # fmt: skip
    world.add(model)
    return str(model.id), job_id


def snapshot_of(database: Database, settings: Settings, job_id: str) -> list[dict[str, Any]]:
    with database.reader() as session:
        snapshot = session.get_one(LabelSnapshot, UUID(session.get_one(Job, UUID(job_id)).inputs["snapshot_id"]))
    return [json.loads(line) for line in BlobStore(settings.blob_root).get(snapshot.sha256).splitlines()]


def test_a_retraction_leaves_future_snapshots_marks_what_was_learned_and_can_be_undone(
    client: TestClient, campaign: str, operator: Headers, sign_in: Callable[..., Headers], database: Database,
    settings: Settings, world: World, base: UUID,
):  # fmt: skip
    ada, bob = sign_in(Role.RATER, "ada"), sign_in(Role.RATER, "bob")
    rate(client, campaign, ada, 10)
    rate(client, campaign, bob, 6, "right")
    bobs_id = user_id(database, "bob")
    model, job_id = make_reward_model(client, campaign, operator, database, world)
    frozen = snapshot_of(database, settings, job_id)
    assert len(frozen) == 16
    assert all(0 < row["weight"] <= 1 for row in frozen)
    reward = {"name": "preference", "reward_model_id": model}
    finetune = {"checkpoint_id": str(base), "preset": "critters-quick", "reward": [reward]}
    _, (tuned, last) = world.finetune(base, [1, 2], spec=finetune)
    _, (grandchild,) = world.finetune(last, [1], spec={"checkpoint_id": str(last), "reward": [{"name": "brightness"}]})
    _, (unrelated,) = world.finetune(base, [1], spec=finetune | {"reward": [{"name": "brightness"}]})

    def marked() -> tuple[int, list[bool]]:
        found = client.get(f"/api/v1/reward-models/{model}", headers=operator).json()["retracted_votes"]
        shown = [client.get(f"/api/v1/checkpoints/{id}", headers=operator).json() for id in
                 (tuned, last, grandchild, unrelated, base)]  # fmt: skip
        return found, [row["rests_on_retracted_votes"] for row in shown]

    assert marked() == (0, [False] * 5)
    path = f"/api/v1/campaigns/{campaign}/raters/{bobs_id}"
    standing = client.put(f"{path}/retraction", json={"reason": "a script"}, headers=operator).json()
    assert [row["id"] for row in standing["reward_models"]] == [model]
    assert {row["id"] for row in standing["checkpoints"]} == {str(id) for id in (tuned, last, grandchild)}
    assert marked() == (6, [True, True, True, False, False])
    for page, sentence in (
        (f"/reward-models/{model}", "6 of its 16 votes were retracted since"),
        (f"/checkpoints/{last}", "rests on votes that were retracted since"),
        (f"/campaigns/{campaign}", "6 votes were retracted"),
        (f"/campaigns/{campaign}/raters/{bobs_id}", "a script"),
    ):
        assert sentence in client.get(page, headers=operator).text

    stats = client.get(f"/api/v1/campaigns/{campaign}/stats", headers=operator).json()
    assert (stats["votes"], stats["retracted_votes"], stats["choices"]["right"]) == (16, 6, 0)
    assert {row["name"]: (row["retracted"], row["weight"]) for row in stats["raters"]}["bob"] == (True, 0.0)
    refused = client.post(f"/api/v1/campaigns/{campaign}/comparisons", headers=bob)
    assert refused.status_code == 409
    assert lease(client, campaign, ada, 1)

    assert client.post(f"/api/v1/checkpoints/{last}/retrain", headers=operator).status_code == 409
    (job,) = client.post(f"{path}/retrain", headers=operator).json()["items"]
    ada_id = user_id(database, "ada")
    assert {row["rater"] for row in snapshot_of(database, settings, job["id"])} == {ada_id}
    with database.reader() as session:
        snapshot_id = UUID(session.get_one(Job, UUID(job["id"])).inputs["snapshot_id"])
        (frozen_rater,) = session.scalars(select(SnapshotRater).where(SnapshotRater.snapshot_id == snapshot_id))
        assert (str(frozen_rater.rater_id), frozen_rater.n_votes) == (ada_id, 10)
    clean, _ = make_reward_model(client, campaign, operator, database, world)
    again = client.post(f"/api/v1/checkpoints/{last}/retrain", headers=operator)
    assert again.status_code == 202, again.text
    assert again.json()["spec"]["reward"][0]["reward_model_id"] == clean
    assert client.post(f"/api/v1/checkpoints/{grandchild}/retrain", headers=operator).status_code == 409
    assert client.post(f"/api/v1/checkpoints/{unrelated}/retrain", headers=operator).status_code == 409

    undone = client.delete(f"{path}/retraction", headers=operator).json()
    assert undone["retracted"] is False
    assert marked() == (0, [False] * 5)
    assert client.post(f"{path}/retrain", headers=operator).status_code == 409
    _, job_id = make_reward_model(client, campaign, operator, database, world)
    assert len(snapshot_of(database, settings, job_id)) == 16
    actions = client.get("/api/v1/audit", headers=sign_in(Role.ADMIN, "root")).json()["items"]
    assert {"rater.retract", "rater.reinstate"} <= {row["action"] for row in actions}


def test_the_buttons_of_the_pages_do_what_the_api_does(
    client: TestClient, campaign: str, operator: Headers, sign_in: Callable[..., Headers], database: Database,
    base: UUID,
):  # fmt: skip
    rate(client, campaign, sign_in(Role.RATER, "ada"), 4)
    rater = f"/campaigns/{campaign}/raters/{user_id(database, 'ada')}"
    a, b, *_ = samples_of(database, base)
    for path, form in (
        (f"/campaigns/{campaign}/gold", {"better": str(a), "worse": str(b)}),
        (f"{rater}/retract", {"reason": "<b>bold</b>"}),
    ):
        answer = client.post(path, data=form, headers=operator, follow_redirects=False)
        assert answer.status_code == 303, answer.text
    assert "&lt;b&gt;bold&lt;/b&gt;" in client.get(rater, headers=operator).text
    assert client.post(f"{rater}/reinstate", headers=operator, follow_redirects=False).status_code == 303
    assert "Retract the 4 votes of ada" in client.get(rater, headers=operator).text
    page = client.get(f"/campaigns/{campaign}/gold", headers=operator).text
    assert "not answered yet" in page
    wrong = client.post(f"/campaigns/{campaign}/gold", data={"better": "x", "worse": str(b)}, headers=operator)
    assert wrong.status_code == 422
    (pair,) = client.get(f"/api/v1/campaigns/{campaign}/gold", headers=operator).json()["items"]
    retire = client.post(
        f"/campaigns/{campaign}/gold/{pair['pair_id']}/retire", headers=operator, follow_redirects=False
    )
    assert retire.status_code == 303
    assert "retired" in client.get(f"/campaigns/{campaign}/gold", headers=operator).text


def test_unknown_raters_and_campaigns_are_not_found(client: TestClient, operator: Headers, base: UUID):
    body = {"name": "n", "question": "?", "checkpoint_ids": [str(base)]}
    closed_circle = client.post("/api/v1/campaigns", json=body, headers=operator).json()["id"]
    for campaign in (closed_circle, uuid4()):
        path = f"/api/v1/campaigns/{campaign}/raters/{uuid4()}"
        assert client.get(path, headers=operator).status_code == 404
        assert client.put(f"{path}/retraction", json={}, headers=operator).status_code == 404
    for path in (f"/api/v1/reward-models/{uuid4()}/retrain", f"/api/v1/checkpoints/{uuid4()}/retrain"):
        assert client.post(path, headers=operator).status_code == 404
