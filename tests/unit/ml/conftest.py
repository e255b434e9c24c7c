"""Fixtures of the numerical tests."""

import pytest
from tiny import tiny_policy

from worker.ml.policy import Policy


@pytest.fixture
def policy() -> Policy:
    return tiny_policy()
