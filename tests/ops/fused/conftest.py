from __future__ import annotations

import pytest

from monai_crossd.ops.fused.launches import replay


@pytest.fixture
def nothing_recorded():
    """Launches are recorded anew."""
    replay.forget()
    yield
    replay.forget()
