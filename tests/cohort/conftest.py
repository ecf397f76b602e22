from __future__ import annotations

from pathlib import Path

import pytest
from cohort_runs import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five cases, one in a subfolder, and a checkpoint."""
    for index, name in enumerate(("a", "b", "c", "d", "sub/e")):
        save(tmp_path / "in" / f"{name}.nii.gz", bright=index + 1)
    (tmp_path / "model.pt").write_bytes(b"weights")
    return tmp_path
