"""These tests run inside the lab image, by tests/notebooks/test_defectlab.py: the host has no NumPy and no PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
from defectlab import data, textures
from hypothesis import settings

# Nothing may be written beside the tests: they are mounted read-only.
settings.register_profile("image", deadline=None, database=None, print_blob=True)
settings.load_profile("image")

TINY = textures.Recipe(per_tile=4)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the real shape; tests must leave it as it is."""
    folder, written = textures.write(tmp_path_factory.mktemp("data"), TINY, progress=False)
    assert written
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> data.DataSet:
    return data.load(tiny_folder, progress=False)
