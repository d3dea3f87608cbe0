"""Fixtures that every test shares."""

import os
from pathlib import Path

import pytest

# The models of the tests are tiny: a second thread only waits for the first, the more so where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor is a terminal as wide as that of whoever runs the tests, which pytest's workers are told.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, tokenizers and text that stands beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    return SHARED
