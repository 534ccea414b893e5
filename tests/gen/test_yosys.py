"""gen/yosys.py: how Yosys is run."""

import pytest

from tilewright.gen.yosys import YosysError, run_script


def test_one_thread(tmp_path):
    """In several threads Yosys loses memories at times, too rarely for a test of what it makes."""
    run_script(["exec -q -expect-stdout ^1$ -- printenv YOSYS_MAX_THREADS"], folder=tmp_path)


def test_error(tmp_path):
    with pytest.raises(YosysError, match="ERROR: No such command: nonsense"):
        run_script(["nonsense"], folder=tmp_path)
    assert (tmp_path / "script.ys").read_text() == "nonsense\n"
