"""The tables hold each case's probabilities under the names of their classes, and nothing that is no probability."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import dicom_files as made
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Activationsd, LoadImaged

from monai_crossd.data import VolumeError
from monai_crossd.outputs import SaveClassificationd

NAMES = ["benign", "malignant, sure", "other"]


def image(file: str, **meta: str) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": file} | meta)


def save(folder: Path, **arguments) -> SaveClassificationd:
    return SaveClassificationd(
        "pred", folder, **{"class_names": NAMES, "model_name": "net", "model_version": "1.2"} | arguments
    )


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "classification.csv").read_text(encoding="utf-8").splitlines()))


def test_both_tables_grow_with_the_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write = save(Path("results/today"), data_root_dir="in")
    data = {"image": image("in/p1/t1.nii.gz"), "pred": torch.tensor([0.25, 0.5, 0.25]), "other": 1}
    assert write(data) == data
    write({"image": image("in/p2", series_instance_uid="1.2.3"), "pred": torch.tensor([0.9, 0.1, 0]).reshape(3, 1, 1)})
    header = 'case,series UID,benign [probability],"malignant, sure [probability]",other [probability],'
    assert Path("results/today/classification.csv").read_text() == (
        header + "predicted class,model name,model version\n"
        'p1/t1,,0.250000,0.500000,0.250000,"malignant, sure",net,1.2\n'
        "p2,1.2.3,0.900000,0.100000,0.000000,benign,net,1.2\n"
    )
    first, second = json.loads(Path("results/today/classification.json").read_text())
    assert first == {
        "case": "p1/t1",
        "file": str(tmp_path / "in/p1/t1.nii.gz"),
        "series_uid": "",
        "probabilities": {"benign": 0.25, "malignant, sure": 0.5, "other": 0.25},
        "predicted_class": "malignant, sure",
        "model_name": "net",
        "model_version": "1.2",
    }
    assert (second["case"], second["series_uid"], second["predicted_class"]) == ("p2", "1.2.3", "benign")
    assert sorted(os.listdir("results/today")) == ["classification.csv", "classification.json"]


def test_a_case_run_again_replaces_its_row(tmp_path: Path) -> None:
    write = save(tmp_path)
    for values in ([1.0, 0, 0], [0, 0, 1.0]):
        write({"image": image("a.nii"), "pred": torch.tensor(values)})
    assert [row["predicted class"] for row in rows(tmp_path)] == ["other"]


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_a_batch_of_series_through_softmax(tmp_path: Path) -> None:
    """As a bundle does it: loader, network, softmax of each case in half precision."""
    uids = [made.write_series(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    load = LoadImaged("image", reader="monai_crossd.data.SimpleITKReader")
    (batch,) = DataLoader(Dataset([{"image": str(tmp_path / name)} for name in "ab"], load), batch_size=2)
    batch["pred"] = torch.tensor([[0.0, 3, 1], [5, 0, -1]]).bfloat16()
    write = save(tmp_path / "out")
    for case in decollate_batch(batch):
        write(Activationsd("pred", softmax=True)(case))
    assert [row["series UID"] for row in rows(tmp_path / "out")] == uids
    assert [row["case"] for row in rows(tmp_path / "out")] == ["a", "b"]
    assert [row["predicted class"] for row in rows(tmp_path / "out")] == ["malignant, sure", "benign"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, float("nan"), 0.5], r"a\.nii: must have probabilities that sum to 1, got 0\.5, nan, 0\.5; place SaveCl"),
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
def test_what_are_no_probabilities_is_refused(values: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=message):
        save(tmp_path / "out")({"image": image("a.nii"), "pred": torch.tensor(values)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [{}, {"image": torch.zeros(1, 2, 2, 2)}, {"image": MetaTensor(torch.zeros(1))}])
def test_the_image_must_know_its_file(data: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'image' must be a MetaTensor that knows its file; name it by `image_key`"):
        save(tmp_path)({"pred": torch.tensor([1.0, 0, 0]), **data})


@pytest.mark.parametrize("names", ["ab", ["a"], ["a", "a"]])
def test_classes_must_have_names(names: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`class_names` must be two or more different names, got "):
        save(tmp_path, class_names=names)


def test_one_key_each(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`keys` must name one key of probabilities, got \('a', 'b'\); add a transf"):
        SaveClassificationd(["a", "b"], tmp_path, NAMES, "net", "1")
