"""Fixtures that every test shares."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The models of the tests are tiny: a second thread only waits for the first, the more so where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor is a terminal as wide as that of whoever runs the tests, which pytest's workers are told.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)

# A run behind `nohup` or `&` ignores some signals, and what it starts would ignore them too: that is what the tests of
# signals ask about, and they set it where they want it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

# How long an example takes says nothing about the code where other work runs beside the tests.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, tokenizers and text that stands beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    return SHARED
