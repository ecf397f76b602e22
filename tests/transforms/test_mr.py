from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_crossd.transforms import MRPercentiles, MRZScore

VOLUME = np.random.default_rng(0).gamma(2, 100, (2, 6, 7, 8)).astype(np.float32)


@pytest.mark.parametrize("nonzero", [False, True])
def test_percentiles_of_each_channel(nonzero):
    volume = VOLUME.copy()
    volume[:, :3] = 0
    scaled = MRPercentiles(1, 90, nonzero)(volume)
    for channel, before in zip(scaled, volume, strict=True):
        counted = before[before != 0] if nonzero else before
        low, high = np.percentile(counted, [1, 90])
        np.testing.assert_allclose(channel, np.clip((before - low) / (high - low), 0, 1), atol=1e-4)


def test_it_does_not_depend_on_the_scale():
    for transform in (MRPercentiles(), MRZScore()):
        np.testing.assert_allclose(transform(VOLUME), transform(3 * VOLUME + 7), atol=1e-4)


def test_zscore():
    scaled = np.asarray(MRZScore()(VOLUME))
    np.testing.assert_allclose(scaled.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((1, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 5.0])
@pytest.mark.parametrize("nonzero", [False, True])
def test_a_constant_volume_becomes_zeros(value, nonzero):
    for transform in (MRPercentiles(nonzero=nonzero), MRZScore(nonzero)):
        assert not np.asarray(transform(np.full((1, 3, 3, 3), value, np.float32))).any()


def test_the_affine_stays():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    for transform in (MRPercentiles(), MRZScore()):
        torch.testing.assert_close(transform(MetaTensor(VOLUME, affine=affine)).affine, affine)


@pytest.mark.parametrize("arguments", [(-1, 99), (5, 5), (1, 101), (float("nan"), 99)])
def test_percentiles_must_be_percentiles(arguments):
    with pytest.raises(ValueError, match="`lower` and `upper` must be percentiles, the lower one first, got "):
        MRPercentiles(*arguments)


def test_in_a_config():
    module = "monai_crossd.transforms"
    transforms = [
        {"_target_": f"{module}.MRPercentilesd", "keys": "t1", "lower": 1, "upper": 99},
        {"_target_": f"{module}.MRZScored", "keys": ["t2", "none"], "nonzero": True, "allow_missing_keys": True},
        {"_target_": f"{module}.IntensityRanged", "keys": "us", "name": "ultrasound"},
        {"_target_": f"{module}.IntensityRanged", "keys": "pet", "name": "pet_suv"},
    ]
    compose = ConfigParser({"compose": {"_target_": "Compose", "transforms": transforms}}).get_parsed_content("compose")
    found = compose({"t1": VOLUME, "t2": VOLUME, "us": VOLUME * 0 + 51, "pet": VOLUME * 0 + 5})
    np.testing.assert_allclose(found["t1"], MRPercentiles(1, 99)(VOLUME), rtol=1e-5)
    np.testing.assert_allclose(found["t2"], MRZScore(True)(VOLUME), rtol=1e-5)
    assert float(found["us"].max()) == pytest.approx(0.2) and float(found["pet"].max()) == pytest.approx(0.5)
