"""The figure of a classifier's classes before and after: its bars are as high as the shares."""

import re
from typing import Any

from app.web.templating import templates

_IDS = ("5f0c6c1e-0000-4000-8000-000000000000", "5f0c6c1e-0000-4000-8000-000000000001")


def share(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "count": 1, "share": value, "low": 0.9 * value, "high": min(1.0, 1.1 * value)}


def test_bars_are_as_high_as_the_shares_and_a_table_says_the_same() -> None:
    shares = {"base": (0.75, 0.25), "tuned": (0.5, 0.5)}
    document = {
        "checkpoints": [{"id": id, "name": name} for id, name in zip(_IDS, shares, strict=True)],
        "seeds": list(range(16)),
        "distributions": [
            {"classes": [share("20-29", young), share("more than 70", old)], "groups": [share("50 and over", old)]}
            for young, old in shares.values()
        ],
    }
    page = templates.get_template("analysis/_age_distribution.html").render(document=document)
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', page)]
    assert [round(height / heights[0], 2) for height in heights] == [1.0, 0.67, 0.33, 0.67]
    assert page.count("75.0 %") == 1
    assert "over 16 samples" in page.lower()
    assert "&gt; 70" in page
