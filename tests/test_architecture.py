"""What the shape of the code promises and no linter sees."""

import json
import subprocess
import sys

import pytest

_PROBE = """
import json, sys, time
started = time.process_time()
import app.main
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def web_process() -> dict[str, object]:
    """What a fresh interpreter has loaded after `import app.main`."""
    run = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(run.stdout)
    return result


@pytest.mark.parametrize(
    "library",
    [
        "torch",
        "diffusers",
        "transformers",
        "open_clip",
        "timm",
        "worker",
        "celery",
        "huggingface_hub",
        "alembic",
        "numpy",
    ],
)
def test_the_web_process_starts_without(web_process: dict[str, list[str]], library: str) -> None:
    assert library not in web_process["modules"]


def test_the_web_process_starts_quickly(web_process: dict[str, float]) -> None:
    """About a second of CPU time on an idle machine; the bound is loose, for machines that do other things as well."""
    assert web_process["seconds"] < 4
