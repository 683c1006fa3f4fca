"""Shared data: small cohorts made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cohorts import Cohort
from hypothesis import HealthCheck, settings
from object_store import bucket, s3_server  # noqa: F401

settings.register_profile("ci", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
settings.load_profile("ci")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Twelve subjects, complete, float64."""
    folder = tmp_path / "maps"
    folder.mkdir()
    return Cohort(folder, 12)


@pytest.fixture
def gappy(tmp_path: Path) -> Cohort:
    """Twelve subjects, float32, a third of them without part of the brain."""
    folder = tmp_path / "gappy"
    folder.mkdir()
    return Cohort(folder, 12, np.float32, holes=True)


@pytest.fixture(scope="session")
def emotion_regulation() -> Path:
    """Thirty real contrast maps, where they are at hand."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "emotion_regulation"
    if not folder.is_dir():
        pytest.skip(f"the emotion_regulation data are not at {folder}")
    return folder
