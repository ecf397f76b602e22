from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from monai_crossd.transforms import spaced_cube, whole_volume

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def affine(spacing=(0.7, 0.9, 3.0), turn=None, flip=(1, 1, 1)) -> torch.Tensor:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if turn is None else turn) * np.array(spacing) * np.array(flip)
    matrix[:3, 3] = (-20, 10, 5)
    return torch.from_numpy(matrix)


def case(shape=(40, 30, 12), **arguments):
    """A ball of labels 1 and 4, and an image that shows it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    labels = np.where((grid**2).sum(0) < 0.4, np.where(grid[0] > 0, 4, 1), 0)[None].astype(np.float32)
    made = affine(**arguments)
    return {"image": MetaTensor(labels * 100, affine=made), "label": MetaTensor(labels, affine=made)}


KEYS = {"keys": ["image", "label"], "label_keys": "label"}
PRESETS = [spaced_cube(spacing=1.0, size=48, **KEYS), whole_volume(size=32, **KEYS)]
CASES = [{}, {"turn": TURN}, {"flip": (-1, 1, -1)}, {"spacing": (2.0, 2.0, 2.0)}]


@pytest.mark.parametrize("preset", PRESETS, ids=["spaced", "whole"])
@pytest.mark.parametrize("arguments", CASES)
def test_a_cube_with_the_labels_own_values(preset, arguments):
    found = preset(case(**arguments))
    size = 48 if preset is PRESETS[0] else 32
    assert found["image"].shape == found["label"].shape == (1, size, size, size)
    assert set(found["label"].unique().tolist()) == {0, 1, 4}
    torch.testing.assert_close(found["image"].affine, found["label"].affine)


@pytest.mark.parametrize("preset", PRESETS, ids=["spaced", "whole"])
@pytest.mark.parametrize("arguments", CASES)
def test_back_to_the_grid_of_the_volume(preset, arguments):
    """A label map that went through the preset as a prediction does, and back by Invertd."""
    before = case(**arguments)
    preprocessing = Compose([preset])
    data = preprocessing(before)
    data["pred"] = data["label"].clone()
    back = Invertd("pred", preprocessing, orig_keys="label", nearest_interp=True)(data)["pred"]
    assert back.shape == before["label"].shape
    torch.testing.assert_close(back.affine, before["label"].affine, rtol=1e-6, atol=1e-6)
    assert set(back.unique().tolist()) <= {0, 1, 4}
    assert (back == before["label"]).float().mean() > 0.95


def test_spacing_is_what_was_asked_for():
    """A ball has the same number of voxels per mL whatever its grid was."""
    volumes = []
    for spacing in ((0.7, 0.9, 3.0), (1.4, 0.9, 1.5)):
        shape = tuple(round(length / step) for length, step in zip((28, 27, 36), spacing, strict=True))
        found = spaced_cube(spacing=[1, 1, 2], size=64, **KEYS)(case(shape, spacing=spacing))
        torch.testing.assert_close(found["image"].pixdim, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
        volumes.append(int((found["label"] > 0).sum()))
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)


def test_images_are_smoothed_before_they_shrink():
    """Stripes of one voxel become grey, not some of the stripes."""
    image = torch.zeros(1, 64, 64, 64)
    image[:, ::2] = 1
    small = whole_volume("image", size=16)({"image": MetaTensor(image, affine=torch.eye(4))})["image"]
    assert float((small[:, 2:-2] - 0.5).abs().max()) < 0.1


def test_in_a_config():
    module = "monai_crossd.transforms"
    transforms = [
        {
            "_target_": f"{module}.spaced_cube",
            "keys": ["image", "label"],
            "spacing": 2,
            "size": 96,
            "label_keys": "label",
        },
        {"_target_": f"{module}.whole_volume", "keys": "image", "size": 128},
    ]
    compose = ConfigParser({"compose": {"_target_": "Compose", "transforms": transforms}}).get_parsed_content("compose")
    found = compose(case())
    assert found["image"].shape == (1, 128, 128, 128) and found["label"].shape == (1, 96, 96, 96)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spaced_cube("image", 0), "`spacing` must be one or three positive numbers of mm, got 0"),
        (lambda: spaced_cube("image", [1, 2]), r"`spacing` must be one or three positive numbers of mm, got \[1, 2\]"),
        (lambda: spaced_cube("image", 1, 0), "`size` must be a positive number of voxels, got 0"),
        (lambda: whole_volume("image", 9.5), "`size` must be a positive number of voxels, got 9.5"),
        (
            lambda: whole_volume("image", 96, "label"),
            r"`label_keys` must be among `keys`, got 'label' beside \['image'\]",
        ),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
