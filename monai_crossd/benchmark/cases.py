"""What is timed: layers, networks, and how the cost grows."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from monai.networks.nets import resnet18
from torch import nn

from monai_crossd.convert import to_3d
from monai_crossd.layers import CrossDConv
from monai_crossd.networks import crossd_resnet18

from .forms import FORMS, FormedConv2d
from .literal import LiteralCrossDConv, with_literal_layers

__all__ = ["GROUPS", "ON_CPU", "Case", "cases", "layer_case"]

#: groups of rows, in the order of the report
GROUPS = {
    "layers2d": "Layers on images",
    "layers3d": "Layers on volumes",
    "networks": "ResNet-18 on images",
    "volumes": "ResNet-18 on volumes",
    "forms": "Convolutions of ResNet-18 by their forms",
    "batch": "Cost against the batch",
    "side": "Cost against the side of the image",
    "channels": "Cost against the channels",
}
#: groups that a GPU has not
ON_CPU = ("forms",)

_PAPER_2D = ((8, 64, 128, 128), (16, 128, 224, 224), (32, 384, 224, 224))
_PAPER_3D = ((4, 64, 16, 64, 64), (4, 64, 32, 96, 96), (8, 128, 16, 128, 128))
_SMALL_2D = ((2, 16, 64, 64), (2, 32, 64, 64), (2, 64, 64, 64))
_SMALL_3D = ((1, 16, 8, 32, 32), (1, 16, 16, 32, 32), (1, 32, 16, 32, 32))

_NETWORK = {
    "small": ((1, 3, 96, 96), (2, 1, 32, 32)),
    "cpu": ((8, 3, 224, 224), (64, 1, 64, 64)),
    "cuda": ((32, 3, 224, 224), (128, 3, 224, 224)),
}

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        group: key of :data:`GROUPS`.
        shape: of the input.
        competitors: name to what builds the module; the first is what the others are measured against.
        steps: an optimizer's step belongs to the backward pass.
        first: nothing comes before, so that no gradient to the input is wanted.
        missing: competitors that cannot run here, and why.
        needs: bytes that a competitor takes at its peak, where it may be more than there is.
        note: what tells the row from others of its shape.
    """

    group: str
    shape: tuple[int, ...]
    competitors: Mapping[str, Build]
    steps: bool = False
    first: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def label(self) -> str:
        """The shape and the note, as text."""
        return " x ".join(map(str, self.shape)) + self.note


def cases(groups: Sequence[str], small: bool, device_type: str = "cuda") -> list[Case]:
    """The rows of some groups.

    Args:
        groups: keys of :data:`GROUPS`.
        small: sizes for a CPU and two minutes; otherwise those of the paper's Table III and of a training step.
        device_type: a training step on a ``"cpu"`` takes other images than one on a GPU.

    Returns:
        The cases, in the order of the groups.
    """
    outputs = 64 if small else 512
    base = (2, 32, 32, 32) if small else (16, 128, 56, 56)
    grown = {"batch": ((0,), (1, 2, 4)), "side": ((2, 3), (0.25, 0.5, 1, 2)), "channels": ((1,), (0.5, 1, 2, 4))}
    found: list[Case] = []
    for group in groups:
        if group == "layers2d":
            found += [layer_case(group, shape, outputs) for shape in (_SMALL_2D if small else _PAPER_2D)]
        elif group == "layers3d":
            found += [layer_case(group, shape, outputs) for shape in (_SMALL_3D if small else _PAPER_3D)]
        elif group == "networks":
            found += [_network_case(shape) for shape in _NETWORK["small" if small else device_type]]
        elif group == "forms":
            networks = _NETWORK["small"][:1] if small else _NETWORK["cpu"]
            found += [case for shape in networks for case in _form_cases(shape)]
        elif group == "volumes":
            found += [_volume_case((1, 1, side, side, side)) for side in ((48,) if small else (96, 128))]
        else:
            axes, factors = grown[group]
            for factor in factors:
                shape = tuple(int(n * factor) if axis in axes else n for axis, n in enumerate(base))
                found.append(layer_case(group, shape, shape[1]))
    return found


def layer_case(group: str, shape: tuple[int, ...], outputs: int) -> Case:
    """A 3x3 or 3x3x3 layer on images ``(B, C, H, W)`` or volumes ``(B, C, D, H, W)``."""
    channels = shape[1]
    tensors = 2 * 4 * math.prod(shape) // channels * (channels + outputs)  # input, output, their gradients in float32

    def crossd() -> CrossDConv:
        conv = CrossDConv(channels, outputs, 3, padding=1, bias=False)
        assert conv.predictor is not None
        for parameter in conv.predictor[3].parameters():
            nn.init.normal_(parameter)  # images differ in their shifts, as after training
        return conv

    if len(shape) == 4:
        competitors: dict[str, Build] = {
            "Conv2d": lambda: nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            "CrossDConv": crossd,
            "literal": lambda: LiteralCrossDConv(crossd()),
        }
        spectra = 8 * 8 * 27 * channels * outputs * shape[0]  # complex64, one an image; forward and backward: 8
        needs = dict.fromkeys(competitors, tensors) | {"literal": tensors + spectra}
        return Case(group, shape, competitors, needs=needs)
    competitors = {"Conv3d": lambda: nn.Conv3d(channels, outputs, 3, padding=1, bias=False), "CrossDConv": crossd}
    missing = {}
    if importlib.util.find_spec("acsconv") is None:
        missing["ACSConv"] = "not installed"
    else:
        competitors["ACSConv"] = lambda: _acs(channels, outputs)
    return Case(group, shape, competitors, missing=missing, needs=dict.fromkeys(competitors, tensors))


def _acs(channels: int, outputs: int) -> nn.Module:
    from acsconv.operators import ACSConv

    return ACSConv(channels, outputs, kernel_size=3, padding=1, bias=False)


def _plain(spatial_dims: int, channels: int) -> nn.Module:
    return resnet18(
        spatial_dims=spatial_dims,
        n_input_channels=channels,
        num_classes=10,
        shortcut_type="B",
        bias_downsample=False,
        conv1_t_stride=2,
        feed_forward=True,
    )


def _network_case(shape: tuple[int, ...]) -> Case:
    channels = shape[1]
    competitors: dict[str, Build] = {
        "plain": lambda: _plain(2, channels),
        "Cross-D": lambda: crossd_resnet18(in_channels=channels, num_classes=10),
        "literal": lambda: with_literal_layers(crossd_resnet18(in_channels=channels, num_classes=10)),
    }
    widest = 8 * 512 * 512 * 27 * shape[0]  # complex64 spectra of the widest layer, one an image
    needs = {"literal": 8 * widest}  # forward and backward: 8
    return Case("networks", shape, competitors, steps=True, first=True, needs=needs)


def _volume_case(shape: tuple[int, ...]) -> Case:
    competitors: dict[str, Build] = {
        "plain": lambda: _plain(3, 1),
        "to_3d": lambda: to_3d(crossd_resnet18(in_channels=1, num_classes=10, lift="aligned")),
        "Cross-D": lambda: crossd_resnet18(in_channels=1, num_classes=10, lift="aligned"),
    }
    return Case("volumes", shape, competitors, steps=True, first=True)


def _form_cases(network: tuple[int, ...]) -> list[Case]:
    """The layers of a ResNet-18 on images ``(B, C, H, W)``, each kind once, without their predictors."""
    images, channels, side, _ = network
    found, side = [_form_case((images, channels, side, side), 64, 7, 2, first=True)], side // 4
    for channels in (64, 128, 256, 512):
        found.append(_form_case((images, channels, side, side), channels, 3, 1))
        if channels < 512:
            found.append(_form_case((images, channels, side, side), 2 * channels, 3, 2))
        side = math.ceil(side / 2)
    return found


def _form_case(shape: tuple[int, ...], outputs: int, size: int, stride: int, first: bool = False) -> Case:
    images, channels = shape[:2]
    competitors: dict[str, Build] = {
        "Conv2d": lambda: nn.Conv2d(channels, outputs, size, stride, size // 2, bias=False),
        **{form: partial(FormedConv2d, images, channels, outputs, size, stride, form) for form in FORMS},
    }
    return Case("forms", shape, competitors, first=first, note=f", K = {size}, stride {stride}, {outputs} outputs")
