"""Every page in a real browser: it opens, it is accessible in light and dark, its forms refuse and accept."""

import re
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Page, expect
from sqlalchemy import func, select

from app.adapters.clock import SystemClock
from app.db.models import Campaign, Checkpoint, Job
from app.db.queries import jobs as job_queries
from app.domain.enums import EventKind, JobKind, JobStatus, Role, Strategy
from tests.e2e.conftest import OpenPage
from tests.e2e.rating import open_rating, press, wait_until_fetched_ahead, wait_until_saved
from tests.e2e.screenshots import pages_of_world
from tests.e2e.stack import Site

_AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds wrong, one line a kind; with `rules`, only these are run."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_AXE.read_text())
    options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = page.evaluate("async (options) => (await axe.run(document, options)).violations", options)
    return [f"{item['id']}: {item['help']} at {[node['target'] for node in item['nodes'][:4]]}" for item in found]


def test_no_page_has_accessibility_violations_in_light_or_dark(open_page: OpenPage, site: Site) -> None:
    page = open_page(color_scheme="light")
    found = {}
    for name, address in pages_of_world(site.world).items():
        answer = page.goto(site.url + address)
        assert answer is not None
        assert answer.status == (404 if name == "missing" else 200), name
        if wrong := violations(page):
            found[name] = wrong
        page.emulate_media(color_scheme="dark")
        if wrong := violations(page, "color-contrast"):
            found[f"{name} in the dark"] = wrong
        page.emulate_media(color_scheme="light")
    assert not found, "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)


def test_the_rating_page_stays_accessible_while_it_is_zoomed_and_while_it_is_offline(
    open_page: OpenPage, site: Site
) -> None:
    page = open_page("Zoe", Role.RATER)
    open_rating(page, site)
    wait_until_fetched_ahead(page)

    def wrong_in_both_schemes() -> list[str]:
        page.emulate_media(color_scheme="light")
        found = violations(page)
        page.emulate_media(color_scheme="dark")
        return found + violations(page, "color-contrast")

    page.keyboard.press("+")
    expect(page.locator("[data-stage]")).to_have_class(re.compile("zoomed"))
    assert wrong_in_both_schemes() == []
    page.keyboard.press("0")
    page.context.set_offline(True)
    press(page, "ArrowLeft")
    expect(page.locator("[data-sync]")).to_contain_text("1 waiting")
    assert wrong_in_both_schemes() == []
    page.context.set_offline(False)
    wait_until_saved(page)


def test_every_page_fits_a_narrow_phone(open_page: OpenPage, site: Site) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    too_wide = []
    for name, address in pages_of_world(site.world).items():
        page.goto(site.url + address)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            too_wide.append(name)
    assert not too_wide


def test_signing_in_is_accessible_and_says_why_a_link_is_refused(open_page: OpenPage, site: Site) -> None:
    page = open_page(None)
    page.goto(f"{site.url}/login?token=used-before")
    expect(page.get_by_role("alert")).to_contain_text("used before or has expired")
    assert violations(page) == []


def test_a_refused_job_keeps_its_values_and_shows_each_error_beside_its_field(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/jobs/new/finetune?preset=critters-quick")
    page.get_by_label("Name of this run").fill("too much")
    page.get_by_label("Epochs", exact=True).fill("-3")
    page.get_by_text("Everything else").click()
    page.get_by_label("Peak").fill("7")
    page.get_by_role("button", name="Queue this job").click()
    expect(page.get_by_role("alert")).to_contain_text("4 settings need a change.")
    for path in ("epochs", "lr.peak", "checkpoint_id"):
        control = page.locator(f'[id="{path}"]')
        expect(control).to_have_attribute("aria-invalid", "true")
        expect(page.locator(f'[id="{path}-error"]')).to_be_visible()
    expect(page.locator('[id="reward-error"]')).to_be_visible()
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("-3")
    expect(page.get_by_label("Name of this run")).to_have_value("too much")
    assert violations(page) == []

    page.get_by_label("Epochs", exact=True).fill("3")
    page.get_by_label("Peak").fill("0.0003")
    page.get_by_label("Checkpoint", exact=True).select_option(str(site.world.base))
    page.get_by_label("Jpeg compressibility").first.check()
    page.get_by_role("button", name="Queue this job").click()
    expect(page.get_by_role("heading", name="too much")).to_be_visible()
    with site.database.reader() as session:
        job = session.scalars(select(Job).where(Job.name == "too much")).one()
    assert job.status is JobStatus.QUEUED
    assert job.spec["preset"] == "critters-quick"
    assert (job.spec["epochs"], job.spec["lr"]["peak"], job.spec["steps"]) == (3, 3e-4, 20)
    assert [term["name"] for term in job.spec["reward"]] == ["jpeg_compressibility"]


def test_a_campaign_is_opened_changed_closed_and_opened_again(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/campaigns/new")
    page.get_by_role("button", name="Open the campaign").click()
    expect(page.locator("#question-error")).to_be_visible()
    expect(page.locator("#checkpoint_ids-error")).to_be_visible()
    page.get_by_label("Question").fill("Which has the kinder eyes?")
    page.get_by_label("Name").fill("Eyes")
    page.get_by_label("critters-64").check()
    page.get_by_role("button", name="Open the campaign").click()
    expect(page.get_by_role("heading", name="Which has the kinder eyes?")).to_be_visible()
    page.get_by_text("Change name, votes wanted").click()
    page.get_by_label("Votes wanted").fill("60")
    page.get_by_role("button", name="Save the settings").click()
    expect(page.get_by_text("votes of 60")).to_be_visible()
    page.get_by_role("button", name="Close “Eyes” to votes").click()
    expect(page.get_by_text("closed").first).to_be_visible()
    page.get_by_role("button", name="Take votes again").click()
    expect(page.get_by_role("link", name="Rate", exact=True).first).to_be_visible()


def test_a_blind_test_puts_the_parent_first(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints/{site.world.tuned}")
    page.get_by_role("button", name="Blind test against parent").click()
    expect(page.locator("[data-pair]")).to_be_visible()
    campaign_id = UUID(page.url.rpartition("/")[2])
    with site.database.reader() as session:
        campaign = session.get_one(Campaign, campaign_id)
        tuned = session.get_one(Checkpoint, site.world.tuned)
    assert campaign.strategy is Strategy.TOURNAMENT
    assert campaign.question == "Which critter do you like better?"  # what its reward was taught by
    assert tuned.parent_id == site.world.base


def test_a_running_job_is_followed_live_to_its_end(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/jobs/{site.world.running}")
    expect(page.locator(".chart:visible")).to_have_count(9)
    with site.database.writer() as session:
        job_id, now = site.world.running, SystemClock().now()
        job_queries.set_progress(session, job_id, progress=0.7, stage="Epoch 7: updating", eta_seconds=90.0)
        payload = {"progress": 0.7, "stage": "Epoch 7: updating", "eta_seconds": 90.0}
        job_queries.append_event(session, job_id, EventKind.PROGRESS, payload, now)
        job_queries.append_event(session, job_id, EventKind.LOG, {"message": "halfway there"}, now)
        job_queries.append_event(session, job_id, EventKind.METRICS, {"epoch": 5, "reward_mean": 9.87}, now)
    expect(page.locator("[data-percent]")).to_have_text("70 %")
    expect(page.locator("[data-eta]")).to_have_text("1 min 30 s left")
    expect(page.locator("[data-log]")).to_contain_text("halfway there")
    expect(page.locator(".chart .now").first).to_contain_text("9.87")
    with site.database.writer() as session:
        job_queries.finish(
            session, site.world.running, JobStatus.FAILED, SystemClock().now(), error="The disk is full."
        )
    expect(page.get_by_text("The disk is full.")).to_be_visible()
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_role("button", name="Cancel this finetune job")).to_be_visible()
    page.get_by_role("button", name="Cancel this finetune job").click()
    expect(page.locator(".lede .status")).to_have_text("cancelled")


def test_the_epoch_scrubber_shows_one_checkpoint_at_a_time(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints/{site.world.tuned}")
    expect(page.locator(".grid thead th[data-column]:visible")).to_have_count(7)
    page.get_by_label("Step through").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".grid thead th[data-column]:visible")).to_have_count(1)
    expect(page.locator("[data-scrub-label]")).to_have_text("base")
    page.keyboard.press("End")
    expect(page.locator("[data-scrub-label]")).to_have_text("epoch 6")


def test_the_theme_that_was_chosen_stays(open_page: OpenPage, site: Site) -> None:
    page = open_page(color_scheme="light")
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_raters_see_their_questions_and_nothing_of_the_desk(open_page: OpenPage, site: Site) -> None:
    page = open_page("Xenia", Role.RATER)
    expect(page.get_by_role("link", name="Rate: Warm and cosy")).to_be_visible()
    assert page.get_by_role("navigation", name="Main").count() == 0
    answer = page.goto(f"{site.url}/checkpoints/{site.world.tuned}")
    assert answer is not None
    assert answer.status == 403
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()


def test_a_token_is_shown_once_and_a_sign_in_link_lets_somebody_in(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/account")
    page.get_by_label("Name of a new token").fill("notebook")
    page.get_by_role("button", name="Make a token").click()
    token = page.locator("code.secret").inner_text()
    answer = page.request.get(f"{site.url}/api/v1/checkpoints", headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 200
    page.goto(f"{site.url}/account")
    assert token not in page.content()

    page.goto(f"{site.url}/admin")
    page.get_by_label("Name", exact=True).fill("Yrsa")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Sign-in link for Yrsa").click()
    link = page.locator("code.secret").inner_text()
    guest = open_page(None)
    guest.goto(link)
    expect(guest.get_by_role("heading", name="Hello, Yrsa")).to_be_visible()


def test_static_files_may_be_kept_for_ever_under_a_name_of_their_content(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    sheet = page.locator("link[rel=stylesheet]").first.get_attribute("href")
    assert sheet is not None
    kept = page.request.get(site.url + sheet)
    assert "immutable" in kept.headers["cache-control"]
    assert kept.headers["content-type"].startswith("text/css")
    version = sheet.split("/")[2]
    stale = page.request.get(site.url + sheet.replace(version, "000000000000"))
    assert stale.headers["cache-control"] == "no-cache"


def test_jobs_that_the_forms_queue_are_all_of_the_supported_kinds(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/jobs/new/sample?checkpoint_id={site.world.base}")
    page.get_by_role("button", name="Queue this job").click()
    page.goto(f"{site.url}/jobs/new/reward_model?campaign_id={site.world.campaign}")
    page.get_by_role("button", name="Queue this job").click()
    page.goto(f"{site.url}/jobs/new/evaluate?checkpoint_id={site.world.base}&reward=jpeg_compressibility")
    page.get_by_role("button", name="Queue this job").click()
    page.goto(f"{site.url}/jobs/new/pretrain")
    page.get_by_role("button", name="Queue this job").click()
    expect(page.get_by_role("heading", name="Pretrain pretrained")).to_be_visible()
    with site.database.reader() as session:
        queued = session.execute(
            select(Job.kind, func.count()).where(Job.status == JobStatus.QUEUED).group_by(Job.kind)
        )
        kinds = {kind for kind, _ in queued}
    assert {JobKind.SAMPLE, JobKind.REWARD_MODEL, JobKind.EVALUATE, JobKind.PRETRAIN} <= kinds
