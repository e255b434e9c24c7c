"""Analysis in a real browser: pointing at the map, uploading an image, starting guided samples, reading a verdict."""

import io
import itertools

from PIL import Image
from playwright.sync_api import expect
from sqlalchemy import select

from app.db.models import Job, Upload
from app.domain.enums import JobKind
from tests.e2e.conftest import OpenPage
from tests.e2e.stack import Site
from tests.e2e.test_pages import violations


def test_pointing_at_a_pair_of_the_map_shows_its_two_images(open_page: OpenPage, site: Site) -> None:
    page = open_page(viewport={"width": 1200, "height": 1000})
    page.goto(f"{site.url}/analysis/{site.world.embedding_map}?method=pca")
    shown = page.locator("[data-hover]")
    expect(shown).to_be_hidden()
    expect(page.locator("[data-map][data-ready]")).to_be_visible()  # the numbers come after the page
    path = page.locator('.map .after:not([d=""])').first.get_attribute("d") or ""
    x, y = (float(part) for part in path.removeprefix("M").partition("h")[0].split())
    box = page.locator("svg.map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x * box["width"] / 640, box["y"] + y * box["height"] / 640)
    expect(shown).to_be_visible()
    seed = page.locator("[data-hover-title]").inner_text().removeprefix("Seed ")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=seed, exact=True))
    before, after = (
        row.get_by_role("img", name=f"seed {seed} {when}").get_attribute("src") for when in ("before", "after")
    )
    expect(page.locator("[data-before]")).to_have_attribute("src", before or "")
    expect(page.locator("[data-after]")).to_have_attribute("src", after or "")


def test_bars_of_an_age_distribution_stand_side_by_side_over_their_class(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/analysis/{site.world.ages}")
    spans = sorted(
        page.eval_on_selector_all(
            "rect.bar", "bars => bars.map((bar) => bar.getBoundingClientRect()).map((box) => [box.left, box.right])"
        )
    )
    assert len(spans) == 18
    assert all(left < right <= following + 0.5 for (left, right), (following, _) in itertools.pairwise(spans))


def test_an_image_is_uploaded_and_a_wrong_file_is_refused_in_words(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/analysis/inversion")
    page.get_by_label("Model").select_option(str(site.world.base))
    page.get_by_label("Image").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": b"no image"})
    page.get_by_role("button", name="Invert").click()
    expect(page.get_by_role("alert")).to_contain_text("not a PNG, JPEG or WebP image")
    assert violations(page) == []

    out = io.BytesIO()
    Image.linear_gradient("L").resize((80, 60)).convert("RGB").save(out, "JPEG")
    page.get_by_label("Image").set_input_files({"name": "me.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()})
    page.get_by_label("Skip the first").fill("0, 10")
    page.get_by_role("button", name="Invert").click()
    expect(page.get_by_role("heading", name="Inversion of critters-64")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel this analysis")).to_be_visible()
    with site.database.reader() as session:
        job = session.scalars(select(Job).where(Job.kind == JobKind.ANALYZE).order_by(Job.created_at.desc())).first()
        assert job is not None
        upload = session.scalars(select(Upload).order_by(Upload.created_at.desc())).first()
        assert upload is not None
    assert job.spec["image_id"] == str(upload.id)
    assert (upload.width, upload.height, job.spec["skips"], job.spec["steps"]) == (60, 60, [0, 10], 50)


def test_guided_samples_are_started_beside_unguided_ones(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/analysis/guidance")
    page.get_by_label("Follow a text").check()
    page.get_by_label("Prompt").fill("a red hat")
    page.get_by_role("button", name="Draw guided and unguided").click()
    expect(page.get_by_role("alert")).to_contain_text("was not trained with text")
    expect(page.get_by_label("Prompt")).to_have_value("a red hat")
    assert violations(page) == []

    page.get_by_label("Raise a reward").check()
    page.get_by_label("Reward", exact=True).select_option("brightness")
    page.get_by_label("Model").select_option(str(site.world.base))
    page.get_by_label("First seed").fill("650")
    page.get_by_role("button", name="Draw guided and unguided").click()
    expect(page.get_by_role("heading", name="Brightness (share of white), scale 10")).to_be_visible()
    with site.database.reader() as session:
        newest = session.scalars(
            select(Job).where(Job.kind == JobKind.SAMPLE).order_by(Job.created_at.desc(), Job.name).limit(2)
        ).all()
    assert [job.spec["guidance"] is not None for job in newest] in ([True, False], [False, True])
    assert {(job.spec["seed"], job.spec["n"], job.spec["steps"]) for job in newest} == {(650, 8, 20)}


def test_the_verdict_is_reached_from_the_run_and_from_the_checkpoint(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    for start in (f"/jobs/{site.world.finished}", f"/checkpoints/{site.world.tuned}"):
        page.goto(site.url + start)
        page.get_by_role("link", name="Over-optimisation report").click()
        expect(page.get_by_text("Over-optimised", exact=True)).to_be_visible()
        expect(page.get_by_text("diversity fell to 70%")).to_be_visible()
