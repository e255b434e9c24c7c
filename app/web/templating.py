"""Renders Jinja2 templates with what every page shares: the reader, the time, numbers and times in words."""

import math
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import nh3
from fastapi import Request
from fastapi.templating import Jinja2Templates
from jinja2 import StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

from app import __version__
from app.web.static import FRONTEND_DIR, static_url

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_N_CHECKPOINT_COLOURS = 12


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter: `45 s`, `3 min 20 s`, `2 h 5 min`; a dash for None."""
    if seconds is None:
        return "–"
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def ago(moment: datetime, now: datetime) -> str:
    """How long before `now`: `just now`, `5 min ago`, and the date once it is more than a month."""
    seconds = (now - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 86_400:
        return f"{round(seconds / 3600)} h ago"
    if seconds < 30 * 86_400:
        return f"{round(seconds / 86_400)} d ago"
    return f"{moment:%Y-%m-%d}"


def figure(value: float | None, digits: int = 3) -> str:
    """A number to `digits` significant digits with a true minus sign, a whole one in full; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
        text = f"{value:,.{max(0, digits - whole)}f}" if abs(value) >= 1 else f"{value:.{digits}g}"
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−")


def with_error(mean: float, sem: float | None) -> tuple[str, str]:
    """A mean and its standard error, both to the decimal where the error has its second digit: (`1.38`, `0.18`)."""
    if not sem:
        return figure(mean), ""
    decimals = max(0, 1 - math.floor(math.log10(sem)))
    return f"{mean:.{decimals}f}".replace("-", "−"), f"{sem:.{decimals}f}"


def data_size(n_bytes: int | None) -> str:
    """Bytes in the unit that fits, as disks count: `512 B`, `12.3 MB`; a dash for None."""
    if n_bytes is None:
        return "–"
    size, unit = float(n_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"


def gib(n_bytes: float) -> str:
    """Bytes in MiB, or in GiB from one on."""
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.1f} GiB"


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


@cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # with the first guidelines, not with the web process

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def markdown(text: str) -> Markup:
    """Markdown that people wrote, as HTML without scripts, styles or remote images."""
    tags = nh3.ALLOWED_TAGS - {"img", "map", "area"}
    return Markup(nh3.clean(_markdown().render(text), tags=tags, link_rel="noopener noreferrer nofollow"))  # noqa: S704


def checkpoint_colour(checkpoint_id: UUID | str) -> str:
    """The CSS class of a checkpoint's colour: a function of its id, so it is the same on every page."""
    return f"ck-{UUID(str(checkpoint_id)).int % _N_CHECKPOINT_COLOURS}"


def _share_principal(request: Request) -> dict[str, Any]:
    return {
        "principal": getattr(request.state, "principal", None),
        "now": request.app.state.tastemaker.clock.now(),
    }


templates = Jinja2Templates(directory=FRONTEND_DIR / "templates", context_processors=[_share_principal])
templates.env.undefined = StrictUndefined
templates.env.trim_blocks = templates.env.lstrip_blocks = True
templates.env.globals |= {"version": __version__, "static": static_url}
templates.env.filters |= {
    "ago": ago,
    "duration": duration,
    "figure": figure,
    "data_size": data_size,
    "percent": percent,
    "gib": gib,
    "with_error": with_error,
    "markdown": markdown,
    "checkpoint_colour": checkpoint_colour,
}


def render(request: Request, name: str, context: dict[str, Any] | None = None, *, status: int = 200) -> Response:
    """A page or a fragment. Every template may use `principal` (None when nobody is signed in), `now` and `version`."""
    return templates.TemplateResponse(request, name, context or {}, status_code=status)
