"""Numbers, times and Markdown as pages show them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.web.templating import ago, checkpoint_colour, duration, figure, markdown, percent, with_error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.4, "0 s"),
        (59, "59 s"),
        (80, "1 min 20 s"),
        (3599, "59 min"),
        (7500, "2 h 5 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_names_the_units_that_matter(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (-1.234, "−1.23"), (1234.5, "1,234"), (0.0123, "0.0123"), (2e-7, "2.00e−07")],
)
def test_a_figure_has_three_significant_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("mean", "sem", "shown"),
    [
        (1.3777, 0.181, ("1.38", "0.18")),
        (0.2, 0.1, ("0.20", "0.10")),
        (-812.4, 33.0, ("−812", "33")),
        (2.0, 0, ("2.00", "")),
    ],
)
def test_a_mean_is_shown_as_precisely_as_its_error_allows(mean: float, sem: float, shown: tuple[str, str]) -> None:
    assert with_error(mean, sem) == shown


def test_times_are_told_from_now() -> None:
    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    told = [ago(now - timedelta(seconds=s), now) for s in (3, 300, 7200, 3 * 86_400, 90 * 86_400)]
    assert told == ["just now", "5 min ago", "2 h ago", "3 d ago", "2026-02-03"]


def test_percentages_have_a_unit() -> None:
    assert (percent(0.256), percent(0.256, 1), percent(None)) == ("26 %", "25.6 %", "–")


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "<img src=x onerror=alert(1)>",
        "![x](https://elsewhere.example/x.png)",
        '<a href="https://x" style="position:fixed" onclick="alert(1)">x</a>',
    ],
)
def test_markdown_that_people_write_can_neither_run_nor_fetch_anything(attack: str) -> None:
    html = markdown(f"*kept* {attack}")
    assert "<em>kept</em>" in html
    for tag in ("<script", "<img", 'href="javascript', '<a href="https://x" style'):
        assert tag not in html


def test_a_checkpoint_keeps_its_colour() -> None:
    id = uuid4()
    assert checkpoint_colour(id) == checkpoint_colour(str(id))
    assert len({checkpoint_colour(uuid4()) for _ in range(500)}) == 12
