"""The tables hold each case's probabilities under the names of their classes, and nothing that is no probability."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dicom_files as made
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Activationsd, LoadImaged

from monai_crossd.data import VolumeError
from monai_crossd.outputs import Classificationd, write_classification

NAMES = ["benign", "malignant, sure", "other"]


def image(file: str, **meta: str) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": file} | meta)


def classify(**arguments) -> Classificationd:
    return Classificationd("pred", **{"class_names": NAMES, "model_name": "net", "model_version": "1.2"} | arguments)


def row(case: str, data: dict) -> dict:
    """As a cohort hands it over."""
    return {"case": case, "file": f"/in/{case}", "classification": classify()(data)["classification"]}


def test_both_tables(tmp_path: Path) -> None:
    data = {"image": image("in/p1/t1.nii.gz"), "pred": torch.tensor([0.25, 0.5, 0.25]), "other": 1}
    assert {key: value for key, value in classify()(data).items() if key != "classification"} == data
    series = {"image": image("in/p2", series_instance_uid="1.2.3"), "pred": torch.tensor([0.9, 0.1, 0]).view(3, 1, 1)}
    write_classification(tmp_path / "today", [row("p1/t1", data), row("p2", series)])
    header = 'case,series UID,benign [probability],"malignant, sure [probability]",other [probability],'
    assert (tmp_path / "today/classification.csv").read_text() == (
        header + "predicted class,model name,model version\n"
        'p1/t1,,0.250000,0.500000,0.250000,"malignant, sure",net,1.2\n'
        "p2,1.2.3,0.900000,0.100000,0.000000,benign,net,1.2\n"
    )
    first, second = json.loads((tmp_path / "today/classification.json").read_text())
    assert first == {
        "case": "p1/t1",
        "file": "/in/p1/t1",
        "series_uid": "",
        "probabilities": {"benign": 0.25, "malignant, sure": 0.5, "other": 0.25},
        "predicted_class": "malignant, sure",
        "model_name": "net",
        "model_version": "1.2",
        "notice": "Not for diagnostic use",
    }
    assert (second["case"], second["series_uid"], second["predicted_class"]) == ("p2", "1.2.3", "benign")
    assert sorted(os.listdir(tmp_path / "today")) == ["classification.csv", "classification.json"]


def test_no_case_leaves_a_header(tmp_path: Path) -> None:
    write_classification(tmp_path, [])
    assert (tmp_path / "classification.csv").read_text().startswith("case,series UID,predicted class")


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_a_batch_of_series_through_softmax(tmp_path: Path) -> None:
    """As a bundle does it: loader, network, softmax of each case in half precision."""
    uids = [made.write_series(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    load = LoadImaged("image", reader="monai_crossd.data.SimpleITKReader")
    (batch,) = DataLoader(Dataset([{"image": str(tmp_path / name)} for name in "ab"], load), batch_size=2)
    batch["pred"] = torch.tensor([[0.0, 3, 1], [5, 0, -1]]).bfloat16()
    found = [classify()(Activationsd("pred", softmax=True)(case))["classification"] for case in decollate_batch(batch)]
    assert [one["series_uid"] for one in found] == uids
    assert [one["predicted_class"] for one in found] == ["malignant, sure", "benign"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, float("nan"), 0.5], r"a\.nii: must have probabilities that sum to 1, got 0\.5, nan, 0\.5; place Classi"),
        (
            [2.5, -1.0, -0.5],
            r"must have probabilities that sum to 1, got 2\.5, -1, -0\.5; .* `Activationsd` with `soft",
        ),
        ([0.9, 0.8, 0.1], r"must have probabilities that sum to 1, got 0\.9, 0\.8, 0\.1"),
        ([0.5, 0.5], r"must have 3 probabilities, one for each of `class_names`, got values of shape \(2,\); give"),
        ([[0.5, 0.25, 0.25]], r"must have 3 probabilities, .*, got values of shape \(1, 3\)"),
        (1.0, r"must have 3 probabilities, .*, got values of shape \(\)"),
    ],
)
def test_what_are_no_probabilities_is_refused(values: object, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        classify()({"image": image("a.nii"), "pred": torch.tensor(values)})


@pytest.mark.parametrize("data", [{}, {"image": torch.zeros(1, 2, 2, 2)}, {"image": MetaTensor(torch.zeros(1))}])
def test_the_image_must_know_its_file(data: dict) -> None:
    with pytest.raises(ValueError, match="'image' must be a MetaTensor that knows its file; name it by `image_key`"):
        classify()({"pred": torch.tensor([1.0, 0, 0]), **data})


@pytest.mark.parametrize("names", ["ab", ["a"], ["a", "a"]])
def test_classes_must_have_names(names: object) -> None:
    with pytest.raises(ValueError, match="`class_names` must be two or more different names, got "):
        classify(class_names=names)


def test_one_key_each() -> None:
    with pytest.raises(ValueError, match=r"`keys` must name one key of probabilities, got \('a', 'b'\); add a transf"):
        Classificationd(["a", "b"], NAMES, "net", "1")
