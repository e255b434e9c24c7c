"""Pictures of every page, wide and narrow, light and dark: `python -m tests.e2e.screenshots --out FOLDER`.

Without `--url` they show the tests' own world; with `--url` and `--token` (the secret of a one-time sign-in link) a
server that is running, for the README's pictures of a real run.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from app.domain.enums import Role
from tests.e2e.stack import launch, running_site

_SIZES = {"wide": (1440, 900), "narrow": (390, 844)}


def pages_of_world(world: object) -> dict[str, str]:
    """The pages to show, by name."""
    get = vars(world).__getitem__
    return {
        "desk": "/",
        "rate": f"/rate/{get('fresh_campaign')}",
        "rate-guidelines": f"/rate/{get('fresh_campaign')}?guidelines=1",
        "campaigns": "/campaigns",
        "campaign": f"/campaigns/{get('campaign')}",
        "rater": f"/campaigns/{get('campaign')}/raters/{get('rater')}",
        "gold": f"/campaigns/{get('campaign')}/gold",
        "campaign-new": "/campaigns/new",
        "jobs": "/jobs",
        "job-running": f"/jobs/{get('running')}",
        "job-finished": f"/jobs/{get('finished')}",
        "job-failed": f"/jobs/{get('failed')}",
        "job-sharded": f"/jobs/{get('sharded')}",
        "new-sample": "/jobs/new/sample",
        "new-reward-model": "/jobs/new/reward_model",
        "new-finetune": "/jobs/new/finetune?preset=critters-quick",
        "new-evaluate": "/jobs/new/evaluate",
        "new-pretrain": "/jobs/new/pretrain",
        "new-push": f"/jobs/new/push?checkpoint_id={get('tuned')}",
        "checkpoints": "/checkpoints",
        "checkpoint": f"/checkpoints/{get('tuned')}",
        "checkpoint-base": f"/checkpoints/{get('base')}",
        "compare": f"/compare?c={get('base')}&c={get('tuned')}&sort=changed",
        "compare-slider": f"/compare?c={get('base')}&c={get('tuned')}&mode=wipe&zoom=2&sort=reward",
        "compare-blink": f"/compare?c={get('base')}&c={get('tuned')}&mode=blink&sort=disagree",
        "compare-difference": f"/compare?c={get('base')}&c={get('tuned')}&c={get('early')}&mode=diff",
        "compare-choose": "/compare",
        "samples": "/samples",
        "samples-by-reward": f"/samples?checkpoint={get('tuned')}&reward=preference:{get('reward_model')}",
        "sample": f"/samples/{get('sample')}",
        "storage": "/storage?preview=1&keep_last=1&keep_every=3&min_age_hours=0",
        "lineage-checkpoint": f"/lineage/checkpoint/{get('tuned')}",
        "lineage-reward-model": f"/lineage/reward_model/{get('reward_model')}",
        "checkpoint-delete": f"/checkpoints/{get('early')}/delete",
        "checkpoint-delete-blocked": f"/checkpoints/{get('base')}/delete",
        "evaluation": f"/evaluation?c={get('tuned')}&c={get('early')}",
        "dev-set": f"/jobs/{get('finished')}/dev-set?sort=difference&down=1",
        "learning": f"/jobs/{get('finished')}/learning",
        "rewards": "/rewards",
        "reward-model": f"/reward-models/{get('reward_model')}",
        "analysis": "/analysis",
        "analysis-trajectory": f"/analysis/{get('trajectory')}",
        "analysis-map": f"/analysis/{get('embedding_map')}",
        "analysis-map-pca": f"/analysis/{get('embedding_map')}?method=pca",
        "analysis-diversity": f"/analysis/{get('diversity')}",
        "analysis-inversion": f"/analysis/{get('inversion')}",
        "analysis-ages": f"/analysis/{get('ages')}",
        "analysis-failed": f"/analysis/{get('failed_analysis')}",
        "analysis-running": f"/analysis/{get('running_analysis')}",
        "inversion": "/analysis/inversion",
        "guidance": "/analysis/guidance",
        "guided": f"/analysis/guidance/{get('guided')}",
        "over-optimisation": f"/analysis/over-optimisation/{get('tuned')}",
        "new-analyze": "/jobs/new/analyze?kind=diversity",
        "account": "/account",
        "admin": "/admin",
        "missing": "/checkpoints/00000000-0000-0000-0000-000000000000",
    }


def pages_of_server(page: Page, url: str) -> dict[str, str]:
    """The overviews, and the first thing that each of them links to."""
    found = {
        "desk": "/",
        "campaigns": "/campaigns",
        "jobs": "/jobs",
        "checkpoints": "/checkpoints",
        "rewards": "/rewards",
    }
    found |= {"desk": "/", "new-finetune": "/jobs/new/finetune?preset=critters-quick"}
    for name, overview, prefix in (
        ("rate", "/", "/rate/"),
        ("campaign", "/campaigns", "/campaigns/"),
        ("job", "/jobs", "/jobs/"),
        ("checkpoint", "/checkpoints", "/checkpoints/"),
        ("reward-model", "/rewards", "/reward-models/"),
    ):
        page.goto(url + overview)
        links = page.eval_on_selector_all("main a", "links => links.map((link) => link.getAttribute('href'))")
        first = next((link for link in links if link.startswith(prefix) and "/new" not in link), None)
        if first:
            found[name] = first
    return found


@contextmanager
def the_site(url: str | None, token: str | None) -> Iterator[tuple[str, str, Mapping[str, str] | None]]:
    """(address, sign-in link, pages if they are known) of the server to show."""
    if url:
        yield url.rstrip("/"), f"{url.rstrip('/')}/login?token={token}", None
        return
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder)) as site:
        yield site.url, site.login_link("ada", Role.ADMIN), pages_of_world(site.world)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--url")
    parser.add_argument("--token")
    parser.add_argument("--only", action="append", help="names of pages")
    parser.add_argument("--theme", action="append", choices=["light", "dark"])
    parser.add_argument("--size", action="append", choices=list(_SIZES))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with the_site(arguments.url, arguments.token) as (url, link, pages), sync_playwright() as playwright:
        browser = launch(playwright)
        state = None
        for theme in arguments.theme or ["light", "dark"]:
            for size in arguments.size or _SIZES:
                width, height = _SIZES[size]
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=theme, storage_state=state,
                    device_scale_factor=1 if size == "wide" else 2, has_touch=size == "narrow",
                )  # fmt: skip
                page = context.new_page()
                if state is None:
                    page.goto(link)
                    state = context.storage_state()
                pages = pages or pages_of_server(page, url)
                for name, address in pages.items():
                    if arguments.only and name not in arguments.only:
                        continue
                    page.goto(url + address, wait_until="load")
                    page.evaluate("() => document.querySelectorAll('img').forEach((image) => image.loading = 'eager')")
                    page.wait_for_function(
                        "() => [...document.images].every((image) => image.complete || image.loading === 'lazy')"
                    )
                    page.wait_for_timeout(150)  # charts draw after their data has come
                    page.screenshot(
                        path=arguments.out / f"{name}-{size}-{theme}.png", full_page=not name.startswith("rate")
                    )
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
