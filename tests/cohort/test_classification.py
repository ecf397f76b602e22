"""A cohort whose results are classes and nothing else."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import dicom_files
import pytest
import torch
from cohort_runs import evaluate, make, save
from monai.transforms import Activationsd

from monai_crossd.cohort import Cohort
from monai_crossd.outputs import Classificationd, write_classification

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")


class Brightness(torch.nn.Module):
    """Logits of two classes, dark and bright, from the mean of a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        mean = x.float().mean((1, 2, 3, 4))  # (B, 1, D1, D2, D3) -> (B,)
        return torch.stack([-mean, mean], dim=1)


def run(folder: Path) -> Brightness:
    this, network = make(folder, tables={"classification": write_classification}), Brightness()
    name = Classificationd("pred", ["dark", "bright"], model_name="net", model_version="1.2")
    evaluate(this, network, [Activationsd("pred", softmax=True), name])
    return network


def test_classes_come_as_tables_and_page(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    uid = dicom_files.write_series(folder / "in" / "series")
    save(folder / "in" / "bright.nii.gz", bright=110)
    (folder / "in" / "c.nii.gz").write_bytes(b"broken")
    caplog.set_level(logging.INFO, "monai_crossd")
    with pytest.raises(SystemExit, match=r"^Refused 1 of 7 inputs:\n.*c\.nii\.gz: must be compressed"):
        run(folder)
    with open(folder / "out" / "classification.csv") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["a", "b", "bright", "d", "series", "sub/e"]
    assert {name: row["predicted class"] for name, row in rows.items() if row["predicted class"] == "bright"} == {
        name: "bright" for name in ("bright", "series")
    }
    assert rows["series"]["series UID"] == uid
    records = json.loads((folder / "out" / "classification.json").read_text())
    assert [one["case"] for one in records] == list(rows)
    dark, bright = records[2]["probabilities"].values()
    assert 0.8 < bright < 0.9 and rows["bright"]["bright [probability]"] == f"{bright:.6f}"
    page = (folder / "out" / "index.html").read_text()
    assert "6 of 7 inputs done. 1 refused." in page and "Model: net 1.2" in page
    assert f'<tr><td>bright</td><td class="text">bright</td><td>{dark:.3f}</td><td>{bright:.3f}</td></tr>' in page
    assert f"6 of 7 inputs done. 1 refused. All on one page: {folder / 'out' / 'index.html'}. Not for" in caplog.text


def test_they_are_taken_up(folder: Path) -> None:
    """A case without files is done by its record."""
    assert run(folder).seen == 5
    before = (folder / "out" / "classification.json").read_text()
    save(folder / "in" / "f.nii.gz")
    assert run(folder).seen == 1 and run(folder).seen == 0
    after = json.loads((folder / "out" / "classification.json").read_text())
    assert [one for one in after if one["case"] != "f"] == json.loads(before)
    assert {file.name for file in (folder / "out").iterdir()} == {
        *("records", "classification.csv", "classification.json", "index.html")
    }


def test_no_table_still_gives_a_page(folder: Path) -> None:
    evaluate(Cohort(folder / "in", folder / "out", folder / "model.pt"), Brightness(), [])
    page = (folder / "out" / "index.html").read_text()
    assert "5 of 5 inputs done." in page and page.count("<tr>") == 6
