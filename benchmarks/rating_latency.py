"""From a vote to the next pair on screen, in headless Chromium against `make demo`, alone and while a finetune runs.
`python -m benchmarks.rating_latency [--n 100] [--pause-ms 500] [--json] [--data-dir FOLDER]`.

The page measures itself: from the key's own time stamp (`event.timeStamp`) to a task after the frame that shows the
next pair was painted. Keys come by the browser's input, with a pause to look, and then without any.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.rating import shown
from tests.e2e.stack import launch

_PATIENCE_S = 900
_EPOCHS = 500
_KEYS = ("ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowRight", "t")
Row = dict[str, float | str]


@contextmanager
def demo(folder: Path, port: int) -> Iterator[tuple[str, httpx.Client]]:
    """The real demo: (address of its one-time login, a client with an operator's token)."""
    environment = {
        **os.environ,
        "TASTEMAKER_DATA_DIR": str(folder),
        "TASTEMAKER_PORT": str(port),
        "TASTEMAKER_MODE": "demo",
        "PYTHONUNBUFFERED": "1",  # or the address would wait in a buffer
    }
    command = [sys.executable, "-m", "app.cli"]
    process = subprocess.Popen([*command, "demo"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            print("  ", line.rstrip(), file=sys.stderr)
            if found := re.search(r"http://\S+/login\?token=\S+", line):
                break
        if found is None:
            raise SystemExit("the demo did not start")
        token = subprocess.run(
            [*command, "token", "create", "--role", "operator", "--name", "benchmark"],
            env=environment, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as api:
            yield found[0], api
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def start_finetune(api: httpx.Client) -> str:
    """A finetune that outlasts the benchmark, once it computes."""
    base = api.get("/api/v1/checkpoints").json()["items"][0]["id"]
    spec = {
        "preset": "critters-quick",
        "checkpoint_id": base,
        "reward": {"name": "jpeg_compressibility"},
        "epochs": _EPOCHS,
    }
    job = str(api.post("/api/v1/jobs", json={"kind": "finetune", "spec": spec}).raise_for_status().json()["id"])
    deadline = time.monotonic() + _PATIENCE_S
    while progress_of(api, job) == 0:
        if time.monotonic() > deadline:
            raise SystemExit(f"no progress within {_PATIENCE_S} s: {api.get(f'/api/v1/jobs/{job}').json()}")
        time.sleep(2)
    return job


def progress_of(api: httpx.Client, job: str) -> float:
    found = api.get(f"/api/v1/jobs/{job}").json()
    if found["status"] not in ("queued", "running"):
        raise SystemExit(f"the finetune is {found['status']}: {found['error']}")
    return float(found["progress"])


def rate(page: Page, name: str, n: int, pause_ms: int) -> Row:
    """Rate `n` pairs with keys, `pause_ms` after each appears."""
    page.evaluate("performance.clearMeasures()")
    began = time.monotonic()
    for turn in range(n):
        before = shown(page)
        page.wait_for_timeout(pause_ms)
        page.keyboard.press(_KEYS[turn % len(_KEYS)])
        expect(page.locator("#vote input[name=comparison_id]")).not_to_have_value(str(before))
    seconds = time.monotonic() - began
    page.wait_for_timeout(500)
    times = page.evaluate("performance.getEntriesByName('vote-to-next').map((entry) => entry.duration)")
    if len(times) != n:
        raise SystemExit(f"{n} votes, but {len(times)} measures")
    expect(page.locator("[data-sync]")).to_have_text("saved")
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "name": name,
        "n": n,
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "max_ms": round(max(times), 1),
        "seconds_a_pair": round(seconds / n, 3),
        "load_average": round(os.getloadavg()[0], 1),
    }


def measure(folder: Path, n: int, pause_ms: int, port: int) -> dict[str, Any]:
    expect.set_options(timeout=60_000)
    with demo(folder, port) as (login, api):
        campaign = api.get("/api/v1/campaigns").json()["items"][0]["id"]
        earlier = api.get(f"/api/v1/campaigns/{campaign}/stats").json()["votes"]
        with sync_playwright() as playwright:
            browser = launch(playwright)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(login)
            page.goto(f"http://127.0.0.1:{port}/rate/{campaign}")
            expect(page.locator("html")).to_have_class(re.compile("scripted"))
            rows = [rate(page, f"nothing else runs, {pause_ms} ms to look", n, pause_ms)]
            job = start_finetune(api)
            before = progress_of(api, job)
            rows.append(rate(page, f"a finetune runs, {pause_ms} ms to look", n, pause_ms))
            rows.append(rate(page, "a finetune runs, no time to look", n, 0))
            progressed = progress_of(api, job) - before
            if progressed <= 0:
                raise SystemExit("the finetune stood still while pairs were rated")
            version = browser.version
            browser.close()
        votes = api.get(f"/api/v1/campaigns/{campaign}/stats").json()["votes"] - earlier
        if votes != 3 * n:
            raise SystemExit(f"{3 * n} votes were given, {votes} are stored")
        api.post(f"/api/v1/jobs/{job}/cancel")
    return {
        "rows": rows,
        "votes_stored": votes,
        "finetune_epochs_meanwhile": round(progressed * _EPOCHS, 2),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "chromium": version,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="pairs a row")
    parser.add_argument("--pause-ms", type=int, default=500, help="time to look at a pair")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--data-dir", type=Path, help="of a demo that is to be used again; a fresh one otherwise")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tastemaker-latency-") as fresh:
        result = measure(options.data_dir or Path(fresh), options.n, options.pause_ms, options.port)
    print(f"{'vote to next pair visible':<44}{'n':>5}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'load':>7}")
    for row in result["rows"]:
        figures = f"{row['p50_ms']:>9}{row['p95_ms']:>9}{row['max_ms']:>9}{row['load_average']:>7}"
        print(f"{row['name']:<44}{row['n']:>5}{figures}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
