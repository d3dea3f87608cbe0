"""SECURITY.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_is_named_exists() -> None:
    file = ""
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`", (ROOT / "SECURITY.md").read_text("utf-8"))
    assert len([each for each in named if any(each)]) > 10
    for path, test in named:
        file = path or file
        if test:
            assert f"def {test}(" in (ROOT / file).read_text("utf-8"), (file, test)
        elif path:
            assert (ROOT / file).is_file(), file
