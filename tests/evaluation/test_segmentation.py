from __future__ import annotations

import pytest

from monai_crossd.evaluation import read_scores
from monai_crossd.evaluation.__main__ import main

FILES = ("val_mean_dice_raw.csv", "val_hausdorff95_mm_raw.csv", "val_surface_dice_1mm_raw.csv")


@pytest.fixture
def folder(tmp_path):
    for file in FILES:
        (tmp_path / file).write_text("filename,class0,class1,mean\na.nii.gz,0.5,0.7,0.6\nb.nii.gz,0.7,0.9,0.8\n")
    return tmp_path


def test_table_of_two_networks(folder, capsys):
    main([f"one={folder}", f"two={folder}", "--structures", "head", "tail"])
    assert capsys.readouterr().out.splitlines() == [
        "| network | Dice head | Dice tail | Dice, mean ± sd | worst case | HD95 [mm] | surface Dice 1 mm | cases |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| one | 0.6000 | 0.8000 | 0.7000 ± 0.1414 | 0.6000 | 0.70 | 0.7000 | 2 |",
        "| two | 0.6000 | 0.8000 | 0.7000 ± 0.1414 | 0.6000 | 0.70 | 0.7000 | 2 |",
    ]


def test_refusals(folder, capsys):
    with pytest.raises(ValueError, match=r"has 2 classes, but 1 structures are named"):
        read_scores(folder, ["head"])
    with pytest.raises(SystemExit):
        main([f"one={folder / 'missing'}", "--structures", "head", "tail"])
    assert "does not exist; give the `output_dir` of a run of evaluate.json." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(folder), "--structures", "head", "tail"])
    assert "must read NAME=FOLDER" in capsys.readouterr().err
