"""The library in a real browser: compare, trace lineage, download and open, delete and undo, the weight of pages."""

import gzip
import re
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch
from diffusers import DDPMPipeline
from playwright.sync_api import Page, expect

from app.domain.bundled import BUNDLED
from tests.e2e.conftest import OpenPage
from tests.e2e.screenshots import pages_of_world
from tests.e2e.stack import Site

_SCROLL_TO_THE_END = """() => new Promise((done, fail) => {
  const until = performance.now() + 30000;
  const step = () => {
    if (!document.querySelector("[data-more]")) return done();
    if (performance.now() > until) return fail(new Error("the gallery has no end"));
    scrollTo(0, document.body.scrollHeight);
    requestAnimationFrame(step);
  };
  step();
})"""
_FIRST_PAINT = """() => new Promise((found) => new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") found(entry.startTime);
}).observe({ type: "paint", buffered: true }))"""
_FIRST_PAINT_MS = 1000
_COMPRESSED_BYTES = 60_000


def compare(site: Site, **query: object) -> str:
    rest = "".join(f"&{name}={value}" for name, value in query.items())
    return f"{site.url}/compare?c={site.world.base}&c={site.world.tuned}{rest}"


def images(page: Page) -> list[str]:
    return page.eval_on_selector_all("[data-sheet] img", "images => images.map((image) => image.src)")


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def test_one_scrubber_moves_every_panel_and_the_address_keeps_the_view(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(compare(site))
    last = images(page)
    scrubber = page.get_by_label("Epoch, over all panels")
    scrubber.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("[data-sheet]")).to_have_attribute("data-epoch", "3")
    expect(page.locator("[data-sheet] .legend")).to_contain_text("epoch 3")
    third = images(page)
    assert third[0::2] == last[0::2]  # the base has no epochs
    assert not set(third[1::2]) & set(last[1::2])
    assert query_of(page)["epoch"] == ["3"]
    page.reload()
    assert images(page) == third
    page.keyboard.press("Tab")
    page.get_by_label("Epoch, over all panels").press("End")
    expect(page.locator("[data-sheet]")).to_have_attribute("data-epoch", "6")
    assert images(page) == last
    assert "epoch" not in query_of(page)


def test_slider_and_zoom_act_on_all_images_together(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(compare(site, mode="wipe", zoom=2))
    frame = page.locator(".frame").first
    box = frame.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    expect(page.locator("[data-wipe-label]")).to_have_text("25 %")
    cut = "element => getComputedStyle(element, '::after').left"
    lines = {frame.evaluate(cut) for frame in page.locator(".frame").all()}
    assert len(lines) == 1
    assert abs(float(lines.pop().removesuffix("px")) - box["width"] / 4) < box["width"] / 40
    page.get_by_role("link", name="→ right").click()
    page.get_by_role("link", name="↓ down").click()
    origins = page.eval_on_selector_all(
        ".frame img", "images => images.map((image) => getComputedStyle(image).transformOrigin)"
    )
    assert len(set(origins)) == 1
    assert {name: query_of(page)[name] for name in ("mode", "zoom", "x", "y", "wipe")} == {
        "mode": ["wipe"], "zoom": ["2"], "x": ["75"], "y": ["75"], "wipe": ["25"],
    }  # fmt: skip


def test_blinking_starts_when_asked_and_stops(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(compare(site, mode="blink"))
    over = page.locator(".over").first
    expect(over).to_be_hidden()
    button = page.get_by_role("button", name="Blink by itself")
    button.click()
    expect(over).to_be_visible()
    expect(over).to_be_hidden()
    page.get_by_role("button", name="Stop blinking").click()
    expect(button).to_have_attribute("aria-pressed", "false")


def test_compare_works_without_scripts(open_page: OpenPage, site: Site) -> None:
    page = open_page(java_script_enabled=False)
    page.goto(compare(site))
    before = page.locator("[data-sheet] img").count()
    page.get_by_text("Difference", exact=True).click()
    page.get_by_label("Order").select_option("changed")
    page.get_by_role("button", name="Show").click()
    assert query_of(page)["mode"] == ["diff"]
    assert page.locator("[data-sheet] img").count() == before / 2
    changes = [float(text) for text in re.findall(r"changed by ([\d.]+)", page.inner_text("[data-sheet]"))]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) > 5
    page.get_by_role("link", name="Next seeds").click()
    assert query_of(page)["page"] == ["2"]


def test_lineage_is_walked_from_a_checkpoint_to_a_rater_and_back(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints/{site.world.tuned}")
    page.locator(".pagehead").get_by_role("link", name="Lineage").click()
    for kind, name in (
        ("job", "warmer critters"), ("reward model", "Reward from First taste"), ("label snapshot", "168 votes"),
        ("rater", "Mira"),
    ):  # fmt: skip
        came_from = page.get_by_role("region", name="Comes from")
        came_from.get_by_role("link", name=re.compile(f"^{kind} {name}")).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.get_by_role("region", name="A change of it would affect")).to_contain_text("6 checkpoints")
    led_to = page.get_by_role("region", name="Led to")
    led_to.get_by_role("link", name="checkpoint warmer critters · epoch 6").click()
    page.get_by_role("link", name="Its own page").click()
    assert page.url == f"{site.url}/checkpoints/{site.world.tuned}"


def test_a_downloaded_checkpoint_opens_in_diffusers(open_page: OpenPage, site: Site, tmp_path: Path) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints/{site.world.base}")
    with page.expect_download() as download:
        page.locator(".pagehead").get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "checkpoint.zip")
    with zipfile.ZipFile(tmp_path / "checkpoint.zip") as archive:
        archive.extractall(tmp_path / "checkpoint")
    drawn = [
        DDPMPipeline.from_pretrained(folder)(
            generator=torch.Generator().manual_seed(5), num_inference_steps=2, output_type="np"
        ).images
        for folder in (tmp_path / "checkpoint", BUNDLED["critters-64"])
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_deleting_is_previewed_and_can_be_undone(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints/{site.world.base}/delete")
    expect(page.locator("main")).to_contain_text("It cannot be deleted")
    expect(page.locator("main")).to_contain_text("First taste shows its samples to raters")
    assert page.locator("button.danger").count() == 0
    page.goto(f"{site.url}/checkpoints/{site.world.early}")
    page.get_by_role("link", name="Delete …").click()
    page.get_by_role("button", name="Delete “warmer critters · epoch 2” and its 16 samples").click()
    expect(page.get_by_role("heading", name="The bin")).to_be_visible()
    answer = page.request.get(f"{site.url}/checkpoints/{site.world.early}")
    assert answer.status == 404
    page.get_by_role("button", name="Restore warmer critters · epoch 2").click()
    assert page.url == f"{site.url}/checkpoints/{site.world.early}"


def test_stars_and_tags_narrow_the_library(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/checkpoints")
    star = page.get_by_role("button", name="Star warmer critters · epoch 4")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.get_by_label("★ only").check()
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_role("link", name="warmer critters · epoch 4").click()
    page.get_by_label("Tags").fill("Horns, paper")
    page.get_by_label("Note").fill("<b>look</b>")
    page.get_by_role("button", name="Keep these marks").click()
    expect(page.locator(".pagehead")).to_contain_text("<b>look</b>")
    page.locator(".pagehead").get_by_role("link", name="horns").click()
    expect(page.locator(".card")).to_have_count(1)
    star.click()


def test_the_gallery_scrolls_on_by_itself(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    page.goto(f"{site.url}/samples")
    page.evaluate(_SCROLL_TO_THE_END)
    seen = page.eval_on_selector_all(".gallery a", "links => links.map((link) => link.pathname)")
    assert len(set(seen)) == len(seen) >= 200


def test_every_page_is_light_and_paints_soon(open_page: OpenPage, site: Site) -> None:
    page = open_page()
    heavy, slow = {}, {}
    for name, address in pages_of_world(site.world).items():
        paints = []
        for _ in range(2):  # the machine may be busy once
            answer = page.goto(site.url + address, wait_until="load")
            assert answer is not None
            paints.append(page.evaluate(_FIRST_PAINT))
            if paints[-1] < _FIRST_PAINT_MS:
                break
        size = len(gzip.compress(answer.body()))
        if size >= _COMPRESSED_BYTES:
            heavy[name] = size
        if min(paints) >= _FIRST_PAINT_MS:
            slow[name] = paints
    assert not heavy
    assert not slow


def test_pages_print_without_what_only_a_screen_can_use(open_page: OpenPage, site: Site) -> None:
    page = open_page(color_scheme="dark")
    page.goto(compare(site, mode="diff"))
    page.emulate_media(media="print")
    for part in (".masthead", ".viewbar", "#choose"):
        expect(page.locator(part)).to_be_hidden()
    expect(page.locator(".seeds li").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
