"""The name under which a request is counted and logged: its path with parameters in braces, so that there are few."""

from starlette.types import Scope

UNMATCHED = "unmatched"


def route_of(scope: Scope) -> str:
    """`/api/v1/jobs/{job_id}` for a request that was routed, `/static` for its files, `unmatched` for a wrong path."""
    if "endpoint" not in scope:
        return UNMATCHED
    if scope.get("root_path"):  # a mounted application: its paths are file names
        return str(scope["root_path"])
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(part, part) if part else part for part in scope["path"].split("/"))
