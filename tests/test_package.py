from __future__ import annotations

import subprocess
import sys

import pytest
from monai.networks.layers import Conv
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE

import monai_crossd
from monai_crossd import CrossDConv, CrossDConvTranspose


def test_registration_twice_does_no_harm():
    before = dict(FLEXUNET_BACKBONE.register_dict)
    monai_crossd.register()
    monai_crossd.register()
    assert FLEXUNET_BACKBONE.register_dict.keys() == before.keys()
    for dim in (2, 3):
        assert Conv["crossd", dim] is CrossDConv
        assert Conv["crossdtrans", dim] is CrossDConvTranspose


def test_the_factory_has_no_1d_form():
    with pytest.raises(ValueError, match=r"`dim` must be 2 \(images\) or 3 \(volumes\) .*, got 1"):
        Conv["crossd", 1]


def test_import_adds_little_to_monai():
    """Nothing heavy beyond what MONAI's networks import themselves."""
    code = "import sys, monai.networks.nets, monai.bundle, monai.data; old = set(sys.modules); import monai_crossd;"
    code += "print(sorted({name.split('.')[0] for name in set(sys.modules) - old} - sys.stdlib_module_names))"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['monai_crossd']"


def test_public_names_exist():
    assert all(hasattr(monai_crossd, name) for name in monai_crossd.__all__)
