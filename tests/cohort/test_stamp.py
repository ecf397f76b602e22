"""A stamp stays while the files of a volume do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import dicom_files as made
import pytest

from monai_crossd.cohort.stamp import file_digest, input_stamp
from monai_crossd.data import find_series, find_volumes
from monai_crossd.data.series import series_path


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    file.write_bytes(b"one")
    before = input_stamp(file)
    (tmp_path / "b.nii.gz").write_bytes(b"beside")
    assert input_stamp(file) == before
    file.write_bytes(b"two and more")
    assert input_stamp(file) != before


@pytest.mark.parametrize("header", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_count(tmp_path: Path, header: str) -> None:
    (tmp_path / f"a{header}").write_text("header")
    (tmp_path / "a.raw").write_bytes(b"one")
    before = input_stamp(tmp_path / f"a{header}")
    (tmp_path / "a.raw").write_bytes(b"another")
    assert input_stamp(tmp_path / f"a{header}") != before


def test_a_dicom_series(tmp_path: Path) -> None:
    made.write_series(tmp_path / "ct")
    (case,) = find_volumes(tmp_path)
    named = series_path(find_series(tmp_path)[0])
    before = input_stamp(case["image"]), input_stamp(named)
    assert before == (input_stamp(case["image"]), input_stamp(named))
    next((tmp_path / "ct").iterdir()).write_bytes(b"damaged")
    assert input_stamp(case["image"]) != before[0] and input_stamp(named) != before[1]


def test_what_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_dir", closed)
    assert input_stamp(tmp_path / "closed" / "a.nii") == ""


def test_a_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "model.pt").write_bytes(content)
    assert file_digest(tmp_path / "model.pt") == hashlib.sha256(content).hexdigest()
