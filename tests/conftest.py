"""What every test may rely on: no network, few threads, short paths."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before any test module imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in [name for name in os.environ if name.startswith("CONSONANCE_")]:
    del os.environ[_name]  # a fleet of the developer's own is none of the tests' business

# A shared machine is slow at times; that alone is no failure.
settings.register_profile(
    "consonance", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("consonance")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path leaves room for socket names (pytest's own may be too long)."""
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
