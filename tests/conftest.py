"""Fixtures that every test shares."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, tokenizers and text that stands beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    return SHARED
