from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_crossd.transforms import HU_WINDOWS, INTENSITY_RANGES, HUWindow, HUWindows, IntensityRange

HU = np.linspace(-2000, 4000, 60, dtype=np.float32).reshape(1, 3, 4, 5)


def clipped(values, low, high):
    return np.clip((values - low) / (high - low), 0, 1)


@pytest.mark.parametrize("window", [*HU_WINDOWS, (100, 250.0)])
def test_windows(window):
    center, width = HU_WINDOWS[window] if isinstance(window, str) else window
    before = HU.copy()
    expected = clipped(HU, center - width / 2, center + width / 2)
    np.testing.assert_allclose(HUWindow(window)(HU), expected, atol=1e-5)
    np.testing.assert_array_equal(HU, before)


def test_windows_as_channels_keep_the_affine():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = HUWindows(["lung", [50, 350]])(MetaTensor(HU, affine=affine))
    assert isinstance(image, MetaTensor)
    torch.testing.assert_close(image.affine, affine)
    expected = np.concatenate([clipped(HU, -1350, 150), clipped(HU, -125, 225)])
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(HUWindows(["lung", [50, 350]])(HU), expected, atol=1e-5)


@pytest.mark.parametrize("name", [*INTENSITY_RANGES, (-3, 9)])
def test_ranges(name):
    low, high = INTENSITY_RANGES[name] if isinstance(name, str) else name
    np.testing.assert_allclose(IntensityRange(name)(HU), clipped(HU, low, high), atol=1e-5)


def test_a_constant_volume_gives_no_nan():
    for transform in (HUWindow("brain"), IntensityRange("0..1"), HUWindows(["brain"])):
        assert np.isfinite(np.asarray(transform(np.full((1, 2, 2, 2), 7.0, np.float32)))).all()


def test_in_a_config():
    module = "monai_crossd.transforms"
    transforms = [
        {"_target_": f"{module}.HUWindowd", "keys": "ct", "window": "liver"},
        {"_target_": f"{module}.HUWindowsd", "keys": "stacked", "windows": ["lung", "bone"]},
        {
            "_target_": f"{module}.IntensityRanged",
            "keys": ["mr", "none"],
            "name": "0..22016",
            "allow_missing_keys": True,
        },
    ]
    parser = ConfigParser({"compose": {"_target_": "Compose", "transforms": transforms}})
    found = parser.get_parsed_content("compose")({"ct": HU, "stacked": HU, "mr": HU, "other": 1})
    np.testing.assert_allclose(found["ct"], clipped(HU, -45, 105), atol=1e-5)
    assert found["stacked"].shape == (2, 3, 4, 5) and found["other"] == 1
    np.testing.assert_allclose(found["mr"], clipped(HU, 0, 22016), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HUWindow("head"), "`window` must be one of lung, mediastinum, .*, or center and width, got 'head'"),
        (lambda: HUWindow((40, 0)), r"`window` must be a center and a positive width in HU, got \[40, 0\]"),
        (lambda: HUWindow((40,)), r"`window` must be a center and a positive width in HU, got \[40\]"),
        (lambda: HUWindow((40, np.inf)), r"`window` must be a center and a positive width in HU, got \[40, inf\]"),
        (lambda: HUWindow((np.nan, 9)), r"`window` must be a center and a positive width in HU, got \[nan, 9\]"),
        (lambda: HUWindows([]), r"`windows` must be a list of windows such as .*, got \[\]"),
        (lambda: HUWindows("lung"), "`windows` must be a list of windows such as .*, got 'lung'"),
        (lambda: HUWindows(["lung"])(np.zeros((2, 3, 3))), r"`img` must have one channel of HU, got shape \(2, 3, 3\)"),
        (lambda: IntensityRange("pet"), "`name` must be one of 0..255, .*, or two numbers, got 'pet'"),
        (lambda: IntensityRange((1, 1)), "`name` must be a lower and a higher number, got 1 and 1"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
