"""Pushing a folder to a model hub (huggingface.co or one that speaks like it)."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import ForbiddenError, UnavailableError


@dataclass(frozen=True)
class Pushed:
    """Where the folder lies now."""

    url: str
    commit: str


def push_folder(folder: Path, repo_id: str, *, token: str, endpoint: str | None, private: bool, message: str) -> Pushed:
    """Make the repository if it is not there, and commit every file of `folder` to it at once.

    Raises:
        ForbiddenError: the hub refuses the token, or it may not write there.
        UnavailableError: the hub cannot be reached, or answers with an error.
    """
    from huggingface_hub import HfApi, constants  # half a second that only this call needs
    from huggingface_hub.errors import HfHubHTTPError

    if endpoint is not None:  # other hubs take plain LFS uploads; Xet is huggingface.co's own
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(endpoint=endpoint, token=token, library_name="tastemaker")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ForbiddenError(
                f"The hub does not let this token write to {repo_id} ({status}); check TASTEMAKER_HUB_TOKEN and the "
                "name of the repository."
            ) from error
        raise UnavailableError(f"The hub answered {status} while {repo_id} was pushed; try again later.") from error
    except Exception as error:  # sockets, name resolution, half-read answers: whatever the client lets through
        raise UnavailableError(
            f"{repo_id} could not be pushed ({type(error).__name__}); check the network and TASTEMAKER_HUB_ENDPOINT, "
            "then retry the job."
        ) from error
    return Pushed(url=f"{api.endpoint}/{repo_id}", commit=commit.oid)
