import numpy as np
import pytest

from app.domain.errors import InvalidSpecError, JobCancelledError
from worker.ml.dicebear import render_avatar, render_style, style_credit, style_names
from worker.ml.progress import SilentMonitor


def test_critters_is_installed_and_free():
    assert "critters" in style_names()
    assert style_credit("critters") == "Critters by DiceBear, CC0 1.0"


def test_worker_processes_draw_what_this_one_draws_and_the_cache_keeps_it(tmp_path):
    images = render_style("critters", 18, size=32, cache_dir=tmp_path, monitor=SilentMonitor(), processes=2)
    assert images.shape == (18, 32, 32, 3)
    for index in (0, 17):
        np.testing.assert_array_equal(images[index], render_avatar("critters", index, size=32))
    assert len({image.tobytes() for image in images}) == 18

    class NoRendering(SilentMonitor):
        def progress(self, fraction, *, stage):
            raise AssertionError("rendered again")

    again = render_style("critters", 18, size=32, cache_dir=tmp_path, monitor=NoRendering(), processes=2)
    np.testing.assert_array_equal(again, images)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_style_is_refused_with_near_names_before_anything_is_drawn(tmp_path):
    with pytest.raises(InvalidSpecError, match="did you mean critters") as caught:
        render_style("criters", 16, size=32, cache_dir=tmp_path / "cache", monitor=SilentMonitor())
    assert caught.value.errors[0]["field"] == "spec.data.style"
    assert not (tmp_path / "cache").exists()


def test_a_cancel_leaves_nothing_behind(tmp_path):
    class Cancelled(SilentMonitor):
        def should_stop(self):
            return True

    with pytest.raises(JobCancelledError):
        render_style("critters", 18, size=32, cache_dir=tmp_path, monitor=Cancelled(), processes=1)
    assert list(tmp_path.iterdir()) == []
