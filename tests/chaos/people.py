"""Raters and operators who keep asking until they get an answer, and who write down what they were promised."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

_PATIENCE = 120.0  # seconds that a call is repeated before the person gives up


def insist(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeat a call until something other than an outage answers: the very same call, as an outbox does."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = call()
            if answer.status_code < 500 and answer.status_code != 429:
                return answer
        assert time.monotonic() < deadline, f"no answer for {_PATIENCE:.0f} s"
        time.sleep(0.1)


class Operator:
    """Submits jobs; `accepted` are the ids that a 202 promised."""

    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20)
        self.accepted: dict[str, str] = {}

    def get(self, path: str, **params: Any) -> Any:
        answer = insist(lambda: self.http.get(path, params=params))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """One effect however often it is sent: the key stays the same."""
        key = {"Idempotency-Key": uuid4().hex}
        answer = insist(lambda: self.http.post(path, json=body, headers=key))
        assert answer.is_success, answer.text
        return answer.json()

    def submit(self, kind: str, spec: Mapping[str, Any], name: str) -> str:
        job_id = str(self.post("/jobs", {"kind": kind, "spec": spec, "name": name})["id"])
        self.accepted[job_id] = name
        return job_id

    def finish(self, job_id: str, *, seconds: float) -> dict[str, Any]:
        """The job once it has ended."""
        deadline = time.monotonic() + seconds
        while True:
            job: dict[str, Any] = self.get(f"/jobs/{job_id}")
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            assert time.monotonic() < deadline, f"{job['name']} has not ended after {seconds:.0f} s: {job}"
            time.sleep(0.2)


@dataclass
class Rater:
    """Votes without pause on a thread of their own; `promised` are the votes that a 204 accepted."""

    url: str
    token: str
    campaign_id: str
    rng: random.Random
    promised: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the vote at hand; raises what went wrong on the thread."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join(timeout=_PATIENCE + 30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=20) as http:
                while not self._stop.is_set():
                    self._vote(http)
        except BaseException as error:  # told by `stop`
            self.error = error

    def _vote(self, http: httpx.Client) -> None:
        leased = insist(lambda: http.post(f"/campaigns/{self.campaign_id}/comparisons", params={"n": 1}))
        assert leased.status_code == 200, leased.text
        comparison_id, choice = leased.json()[0]["id"], self.rng.choice(["left", "right", "tie"])
        path = f"/comparisons/{comparison_id}/preference"
        answer = insist(lambda: http.put(path, json={"choice": choice}))
        assert answer.status_code == 204, answer.text
        assert comparison_id not in self.promised, "a pair that was voted on was leased again"
        self.promised[comparison_id] = choice
        self._stop.wait(0.2)
