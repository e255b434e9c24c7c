"""What every page route needs beside its data: who is looking, and forms read from a request."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData

from app.web.deps import MaybePrincipal


def share_principal(request: Request, principal: MaybePrincipal) -> None:
    """Let templates know who is looking (`principal`), on error pages too."""
    request.state.principal = principal


async def _form(request: Request) -> FormData:
    return await request.form(max_files=0, max_fields=1000, max_part_size=100_000)


SubmittedForm = Annotated[FormData, Depends(_form)]
