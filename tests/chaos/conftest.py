"""The tiny model of the worker's tests serves here too."""

from tests.integration.worker.conftest import tiny_model

__all__ = ["tiny_model"]
