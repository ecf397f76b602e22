"""Load a checkpoint into a network."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layout import LAYOUTS, arrange, crossd_convolutions, find_layouts, join, to_own_names
from .read import read_state_dict, strip_wrappers
from .report import KeyShapes, LoadReport

__all__ = ["load_checkpoint"]

logger = logging.getLogger(__name__)


def load_checkpoint(
    net: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: str = "auto",
    strict: bool = True,
    skip: str | Sequence[str] = (),
) -> LoadReport:
    """Load weights of any known layout into ``net``, in place, keeping its dtype and device.

    Known are the network's own layout and, for its Cross-D convolutions, the published layer's, that of the same
    network in 2D (torchvision, timm, MONAI) and in 3D. 2D and 3D kernels are laid out in knowledge bases such that
    images, or volumes, come out as they do there; the predictors, which those networks lack, are kept with angle 0.
    Names may carry ``"module."``; the weights may lie under a name such as ``"state_dict"`` or ``"model"``. Weights of
    three input channels enter a first convolution of another number: summed to one, else repeated and scaled.

    Args:
        net: network with or without Cross-D convolutions.
        path_or_state_dict: file of :func:`torch.save`, read with ``weights_only=True``, or a mapping.
        source: ``"published"``, ``"2d"``, ``"3d"`` or ``"crossd"`` to insist on a layout, ``"auto"`` to tell it for
            every convolution from names and shapes.
        strict: whether every key must fit, those in ``skip`` aside. Otherwise what fits is loaded and the rest
            reported, and logged as a warning.
        skip: modules or keys to leave untouched, such as ``"fc"`` for another number of classes.

    Returns:
        What became of every key.

    Raises:
        TypeError: if ``path_or_state_dict`` is neither a path nor a mapping.
        ValueError: for an unreadable file, an unknown or contradicted ``source``, a name in ``skip`` that nothing has,
            3D kernels that the network's lift cannot give, tied keys with two values and, with ``strict``, any
            missing, unexpected or mismatched key. The network is then as it was.

    Example:
        >>> from monai_crossd import crossd_resnet18, load_checkpoint
        >>> net = crossd_resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)
        >>> report = load_checkpoint(net, "resnet18.pth", skip="fc")  # doctest: +SKIP
    """
    if source != "auto" and source not in LAYOUTS:
        raise ValueError(f"`source` must be 'auto' or one of {', '.join(map(repr, LAYOUTS))}, got {source!r}.")
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        net = net.module
    own = net.state_dict(keep_vars=True)
    convolutions = crossd_convolutions(net)
    state = strip_wrappers(read_state_dict(path_or_state_dict), own)
    origin, dropped = to_own_names(state, convolutions)
    skipped = _skipped([skip] if isinstance(skip, str) else skip, [*own, *(key for key in origin if key not in own)])

    given = {key: state[old] for key, old in origin.items() if key not in skipped}
    layouts = find_layouts(convolutions, given, origin, source)
    shared = {key: tensor for key, tensor in given.items() if key in own}
    arranged = arrange(net, shared, own, layouts)
    fitting = {key: tensor for key, tensor in arranged.items() if tensor.shape == own[key].shape}
    twins = _twins(own, fitting)
    kept = _kept(own, convolutions, layouts) - fitting.keys() - twins - skipped
    resting = [n for n, layout in layouts.items() if layout in ("2d", "3d") and join(n, "weight") in fitting]
    ...
