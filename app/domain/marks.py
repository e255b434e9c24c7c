"""Marks that people put on checkpoints and samples: a star, a note, tags."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from app.domain.documented import Documented

MOST_TAGS = 20

Tag = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=40, pattern=r"^[^,\x00-\x1f]+$"),
]
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000, pattern=r"^[^\x00]*$")]


def _once_each(tags: list[str] | None) -> list[str] | None:
    return None if tags is None else sorted(set(tags))


class Marks(Documented):
    """Changes of marks: what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"starred": True, "tags": ["for the paper"], "note": "The horns are back."}},
    )

    starred: bool | None = None
    """Starred checkpoints are kept by every retention rule."""
    tags: Annotated[list[Tag] | None, AfterValidator(_once_each)] = Field(default=None, max_length=MOST_TAGS)
    """All tags from now on: lower case, each once, without commas."""
    note: Note | None = None
    """Plain text."""


def tags_of(text: str) -> list[str]:
    """Tags as people write them into one field, between commas."""
    return [part for part in (part.strip() for part in text.split(",")) if part]
