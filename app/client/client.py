"""A thin client of the REST API (`/api/v1`): one method a call, problem documents become `ApiError`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from app.domain.errors import TastemakerError

Json = dict[str, Any]

_FINAL = frozenset({"succeeded", "failed", "cancelled"})


class ApiError(TastemakerError):
    """The server refused a call or could not be reached. `status` is the HTTP status, 0 without an answer."""

    slug = "api"

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = list(errors)


class JobFailedError(TastemakerError):
    """A job that was waited for ended otherwise than well."""


class TastemakerClient:
    """Calls one server with one token. Safe to use from one thread at a time."""

    def __init__(self, url: str, token: str, *, timeout: float = 60.0, transport: httpx.BaseTransport | None = None):
        self._base = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self._base}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def url(self) -> str:
        return self._base

    def with_token(self, token: str) -> "TastemakerClient":
        """The same server as somebody else."""
        return TastemakerClient(self._base, token)

    # checkpoints and samples

    def register_checkpoint(self, name: str, source: str) -> Json:
        return self._json("POST", "/checkpoints", json={"name": name, "source": source})

    def ensure_base(self, source: str) -> Json:
        """The base checkpoint of this source, registered if it is not there yet."""
        for checkpoint in self.list_all("/checkpoints"):
            if checkpoint["kind"] == "base" and checkpoint["name"] == source:
                return checkpoint
        return self.register_checkpoint(source, source)

    def get_checkpoint(self, checkpoint_id: str) -> Json:
        return self._json("GET", f"/checkpoints/{checkpoint_id}")

    def list_samples(self, checkpoint_id: str) -> Iterator[Json]:
        return self.list_all("/samples", checkpoint_id=checkpoint_id)

    def get_image(self, link: str) -> bytes:
        """The bytes behind an image link of a sample or a comparison."""
        return self._request("GET", urljoin(f"{self._base}/", link)).content

    # jobs

    def submit_job(self, kind: str, spec: Json, *, name: str | None = None) -> Json:
        return self._json("POST", "/jobs", json={"kind": kind, "spec": spec, **({"name": name} if name else {})})

    def get_job(self, job_id: str) -> Json:
        return self._json("GET", f"/jobs/{job_id}")

    def wait_for_job(
        self, job_id: str, *, poll_seconds: float = 0.5, on_update: Callable[[Json], None] = lambda _job: None
    ) -> Json:
        """Poll until the job has ended.

        Raises:
            JobFailedError: it failed or was cancelled; the message is the job's own.
        """
        while True:
            job = self.get_job(job_id)
            on_update(job)
            if job["status"] in _FINAL:
                break
            time.sleep(poll_seconds)
        if job["status"] != "succeeded":
            raise JobFailedError(f"The {job['kind']} job {job['status']}: {job['error'] or 'no reason was given'}")
        return job

    # campaigns and votes

    def create_campaign(self, **fields: Any) -> Json:
        return self._json("POST", "/campaigns", json=fields)

    def list_campaigns(self) -> list[Json]:
        return list(self.list_all("/campaigns"))

    def change_campaign(self, campaign_id: str, **fields: Any) -> Json:
        """`name`, `guidelines`, `budget` or `open`; what is not named stays as it is."""
        return self._json("PATCH", f"/campaigns/{campaign_id}", json=fields)

    def add_raters(self, campaign_id: str, user_ids: Sequence[str]) -> None:
        self._request("POST", f"/campaigns/{campaign_id}/raters", json={"user_ids": list(user_ids)})

    def lease_comparisons(self, campaign_id: str, n: int) -> list[Json]:
        """The caller's next pairs; an empty list when none is left."""
        answer = self._request("POST", f"/campaigns/{campaign_id}/comparisons", params={"n": n})
        return [] if answer.status_code == 204 else list(answer.json())

    def vote(self, comparison_id: str, choice: str, *, response_ms: int | None = None) -> None:
        body = {"choice": choice, **({"response_ms": response_ms} if response_ms is not None else {})}
        self._request("PUT", f"/comparisons/{comparison_id}/preference", json=body)

    def list_gold(self, campaign_id: str) -> list[Json]:
        return list(self._json("GET", f"/campaigns/{campaign_id}/gold")["items"])

    def mark_gold(self, campaign_id: str, better_sample_id: str, worse_sample_id: str) -> Json:
        body = {"better_sample_id": better_sample_id, "worse_sample_id": worse_sample_id}
        return self._json("POST", f"/campaigns/{campaign_id}/gold", json=body)

    def get_rater(self, campaign_id: str, rater_id: str) -> Json:
        return self._json("GET", f"/campaigns/{campaign_id}/raters/{rater_id}")

    def retract_rater(self, campaign_id: str, rater_id: str, *, reason: str = "") -> Json:
        path = f"/campaigns/{campaign_id}/raters/{rater_id}/retraction"
        return self._json("PUT", path, json={"reason": reason})

    def reinstate_rater(self, campaign_id: str, rater_id: str) -> Json:
        return self._json("DELETE", f"/campaigns/{campaign_id}/raters/{rater_id}/retraction")

    def export_votes(self, campaign_id: str, *, format: str = "jsonl") -> bytes:
        return self._request("GET", f"/campaigns/{campaign_id}/export", params={"format": format}).content

    def import_votes(self, campaign_id: str, data: bytes) -> Json:
        """Send a file of votes, or as many of its lines as one call takes (see `app.client.votes`)."""
        return self._json("POST", f"/campaigns/{campaign_id}/import", content=data)

    def campaign_stats(self, campaign_id: str) -> Json:
        return self._json("GET", f"/campaigns/{campaign_id}/stats")

    def get_reward_model(self, reward_model_id: str) -> Json:
        return self._json("GET", f"/reward-models/{reward_model_id}")

    # people

    def create_user(self, name: str, role: str) -> Json:
        return self._json("POST", "/users", json={"name": name, "role": role})

    def create_token(self, user_id: str, *, name: str, role: str) -> Json:
        """The new token; `token` is its secret, shown this once."""
        return self._json("POST", "/tokens", json={"user_id": user_id, "name": name, "role": role})

    # plumbing

    def list_all(self, path: str, **params: Any) -> Iterator[Json]:
        """Every item of a keyset-paged list."""
        cursor: str | None = None
        while True:
            page = self._json("GET", path, params={**params, "limit": 200, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _json(self, method: str, path: str, **options: Any) -> Json:
        body: Json = self._request(method, path, **options).json()
        return body

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ApiError(0, f"{self._base} does not answer ({error}); is the server running?") from error
        if answer.is_error:
            raise _as_error(answer)
        return answer


def _as_error(answer: httpx.Response) -> ApiError:
    try:
        problem = answer.json()
        errors = problem.get("errors") or []
        detail = str(problem["detail"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return ApiError(answer.status_code, f"HTTP {answer.status_code} from {answer.request.url}")
    named = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return ApiError(answer.status_code, f"{detail} ({named})" if named else detail, errors)
