"""An operator's day against the embedded default: real web process, real broker, a real worker that is killed."""

import re
import zipfile
from pathlib import Path

import torch
from diffusers import DDPMPipeline
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.db.models import Job, JobEvent
from app.domain.enums import EventKind
from tests.e2e.conftest import OpenPage
from tests.e2e.embedded import Embedded

_EPOCHS = 12  # as many as a page shows side by side
_SETTINGS = {
    "epochs": _EPOCHS, "samples_per_epoch": 24, "updates_per_epoch": 2, "lr.peak": 1e-3, "eval.n": 4,
}  # fmt: skip
_WORKER_MS = 120_000  # a lost worker is noticed after 15 s; it imports torch, and so does each attempt


def epochs_drawn(page: Page) -> int:
    """Columns of the grid that grows while the run goes on: the base's and one for every evaluated epoch."""
    return page.locator("[data-grid] thead th[data-column]").count()


def wait_for_epochs(page: Page, n: int) -> None:
    script = "n => document.querySelectorAll('[data-grid] thead th[data-column]').length > n"
    page.wait_for_function(script, arg=n, timeout=_WORKER_MS)


def start_finetune(page: Page, url: str) -> None:
    """From the first page of an empty installation to a queued run, by what a person clicks and fills in."""
    page.goto(f"{url}/checkpoints")
    page.get_by_label("Name", exact=True).fill("tiny critters")
    page.get_by_label("Source").fill("tiny")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", name="tiny critters")).to_be_visible()
    page.locator("main").get_by_role("link", name="tiny critters").first.click()
    page.get_by_role("link", name="Finetune from here").click()
    page.get_by_label("Name of this run").fill("brighter")
    page.locator("summary", has_text="Everything else").click()
    for path, value in _SETTINGS.items():
        page.locator(f'[id="{path}"]').fill(str(value))
    page.get_by_label("Brightness").first.check()
    page.get_by_role("button", name="Queue this job").click()
    expect(page.get_by_role("heading", name="brighter")).to_be_visible()


def test_a_finetune_is_started_watched_killed_cancelled_resumed_compared_traced_and_downloaded(
    open_real_page: OpenPage, installation: Embedded, tmp_path: Path
) -> None:
    page = open_real_page()
    start_finetune(page, installation.url)
    marker = "() => (window.notReloaded ??= true)"
    expect(page.locator(".lede .status")).to_have_text("running", timeout=_WORKER_MS)
    page.evaluate(marker)
    wait_for_epochs(page, 2)
    seen = epochs_drawn(page)
    assert page.evaluate("window.notReloaded"), "the page grew by itself"
    expect(page.locator(".chart:visible").first).to_be_visible()

    installation.kill_worker()
    installation.start_worker()
    wait_for_epochs(page, seen)
    page.reload()
    expect(page.locator(".lede")).to_contain_text("attempt 2")
    assert epochs_drawn(page) > seen, "a reload shows no less than the page that had grown"
    with installation.database.reader() as session:
        (job,) = session.scalars(select(Job)).all()
        reported = session.scalars(
            select(JobEvent.payload).where(JobEvent.job_id == job.id, JobEvent.kind == EventKind.METRICS)
        )
        epochs = [payload["epoch"] for payload in reported]
    assert epochs.count(1) == 1, "the second attempt began at a saved state, not from the start"

    page.get_by_role("button", name="Cancel this finetune job").click()
    expect(page.locator(".lede .status")).to_have_text("cancelled", timeout=_WORKER_MS)
    assert epochs_drawn(page) < _EPOCHS + 1
    page.get_by_role("button", name="Resume where it stopped").click()
    expect(page.locator(".lede .status")).to_have_text("succeeded", timeout=_WORKER_MS)
    assert epochs_drawn(page) == _EPOCHS + 1
    run = page.url

    page.get_by_role("link", name="See the checkpoint").click()
    checkpoint = page.url
    page.get_by_role("link", name="Compare with its parent").click()
    expect(page.locator("[data-sheet] .legend")).to_contain_text(f"epoch {_EPOCHS}")
    images = (
        page.locator("[data-sheet] .seeds li").first.locator("img").evaluate_all("all => all.map((one) => one.src)")
    )
    assert len(set(images)) == 2, "the same seed looks different before and after"

    page.goto(checkpoint)
    page.locator(".pagehead").get_by_role("link", name="Lineage").click()
    page.get_by_role("region", name="Comes from").get_by_role("link", name=re.compile("^job brighter")).first.click()
    page.get_by_role("link", name="Its own page").click()
    assert page.url == run

    page.goto(checkpoint)
    with page.expect_download() as download:
        page.locator(".pagehead").get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "checkpoint.zip")
    with zipfile.ZipFile(tmp_path / "checkpoint.zip") as archive:
        archive.extractall(tmp_path / "checkpoint")
    drawn = DDPMPipeline.from_pretrained(tmp_path / "checkpoint")(
        generator=torch.Generator().manual_seed(5), num_inference_steps=2, output_type="np"
    ).images
    assert drawn.shape == (1, 16, 16, 3)
