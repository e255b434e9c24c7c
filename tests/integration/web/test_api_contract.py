"""Generated requests, sound and broken, to every operation are answered as the published description says."""

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from app.config import Settings
from app.domain.enums import Choice, JobKind, JobStatus, Role
from app.main import create_app
from tests.integration.web.conftest import World

_EXAMPLES = 6  # of each kind, for each operation
# /events answers with a stream where a generated header asks for one, /import takes files: each has tests of its own
_ELSEWHERE = ("/events", "/import")

described = schemathesis.openapi.from_dict(create_app(Settings(mode="demo")).openapi())
operations = {
    result.ok().label: result.ok()
    for result in described.get_all_operations()
    if not result.ok().path.endswith(_ELSEWHERE)
}


@pytest.fixture
def database_url(sqlite_database_url: str) -> str:
    return sqlite_database_url


@pytest.fixture
def headers(client: TestClient, world: World, sign_in: Callable[..., dict[str, str]]) -> dict[str, str]:
    """An administrator's, in a small world that generated requests can hit."""
    base = world.checkpoint()
    world.samples(base, range(4))
    world.finetune(base, [1, 2])
    world.job(JobKind.SAMPLE, JobStatus.FAILED)
    world.campaign(base, [Choice.LEFT, Choice.TIE])
    return sign_in(Role.ADMIN)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations.values(), ids=operations)
def test_no_generated_request_breaks_the_contract(
    operation: Any, mode: GenerationMode, client: TestClient, headers: dict[str, str]
) -> None:
    described.app = operation.app = client.app

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers, timeout=60)
        # a body of the right shape may name what is not there: a 422 as well
        excluded = [positive_data_acceptance]
        if operation.method == "get":  # unknown and repeated query parameters are passed over, as on the web at large
            excluded.append(negative_data_rejection)
        if answer.status_code == 503:  # no broker and no name server here; the contract documents where that may be
            excluded.append(not_a_server_error)
        case.validate_response(answer, headers=headers, excluded_checks=excluded)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing about such a request can be wrong
