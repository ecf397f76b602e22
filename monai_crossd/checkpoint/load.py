"""Load a checkpoint into a network."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_crossd.layers import ShiftPredictor

from .arrange import arrange
from .layout import LAYOUTS, crossd_convolutions, find_layouts, join, to_own_names
from .read import describe, read_state_dict, strip_wrappers
from .report import KeyShapes, LoadReport

__all__ = ["load_checkpoint"]

logger = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"


def load_checkpoint(
    net: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: str = "auto",
    strict: bool = True,
    skip: str | Sequence[str] = (),
) -> LoadReport:
    """Load weights into ``net``, in place, whatever layout its Cross-D convolutions find theirs in.

    Known are the published layer's layout, that of the same network in 2D (torchvision, timm, MONAI) or in 3D (MONAI),
    and our own. 2D and 3D kernels become knowledge bases with which images, or volumes, come out as they do there; the
    predictors, which those networks lack, are kept with angle 0. Names may carry ``"module."``, and the weights may
    lie under a name such as ``"state_dict"`` or ``"model"``. Weights of three input channels enter a first convolution
    of another number summed to one, or repeated and scaled. Device and dtype stay the network's.

    Args:
        net: network with or without Cross-D convolutions.
        path_or_state_dict: file of :func:`torch.save`, read with ``weights_only=True``, or its content.
        source: layout of the Cross-D convolutions' weights: ``"auto"`` to tell it of each by names and shapes,
            ``"published"``, ``"2d"``, ``"3d"`` or ``"crossd"`` to insist on one.
        strict: whether every key must fit. Otherwise what fits is loaded, the rest reported and logged as a warning.
        skip: modules or keys to leave untouched, such as ``"fc"`` for another number of classes.

    Returns:
        What became of every key.

    Raises:
        TypeError: if ``path_or_state_dict`` is neither a path nor a mapping.
        ValueError: for an unreadable file, an unknown or contradicted ``source``, a name in ``skip`` that nothing has,
            3D kernels that the lift cannot give, tied keys with different values and, with ``strict``, missing,
            unexpected or mismatched keys, all in one error. The network is then as it was.

    Example:
        >>> from monai_crossd import crossd_resnet18, load_checkpoint
        >>> pretrained, net = crossd_resnet18(in_channels=3), crossd_resnet18(in_channels=1, num_classes=2)
        >>> report = load_checkpoint(net, pretrained.state_dict(), skip="fc")
        >>> report.source, report.skipped
        ('crossd', ('fc.weight', 'fc.bias'))
    """
    if source != "auto" and source not in LAYOUTS:
        raise ValueError(f"`source` must be 'auto', {', '.join(map(repr, LAYOUTS))}, got {source!r}.")
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        net = net.module
    own = {key: t for key, t in net.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    state = strip_wrappers(read_state_dict(path_or_state_dict), own)
    plan = _plan(net, own, state, source, [skip] if isinstance(skip, str) else skip)
    if strict and not plan.report.complete:
        raise ValueError(_refusal(describe(path_or_state_dict), plan.report))
    net.load_state_dict(plan.tensors, strict=False)
    for predictor in plan.resting:
        predictor.reset_angle()
    logger.log(logging.INFO if plan.report.complete else logging.WARNING, "weights loaded\n%s", plan.report)
    return plan.report


@dataclass(frozen=True)
class _Plan:
    """What is about to happen to a network."""

    tensors: dict[str, Tensor]  # to load, in the network's layout
    resting: list[ShiftPredictor]  # to set to angle 0
    report: LoadReport


def _plan(
    net: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, skip: Sequence[str]
) -> _Plan:
    origin, dropped = to_own_names(state, net)
    skipped = _skipped(skip, list(dict.fromkeys([*own, *origin])))
    given = {key: state[old] for key, old in origin.items() if key not in skipped}
    layouts = find_layouts(net, given, origin, source)
    arranged = arrange(net, given, own, layouts)
    tensors = {key: tensor for key, tensor in arranged.items() if tensor.shape == own[key].shape}
    _check_tied(own, tensors)
    twins = _tied(own, tensors) - given.keys()
    absent = [key for key in own if key not in given and key not in twins and key not in skipped]
    kept, resting = _kept(net, absent, given, tensors, layouts)
    kept |= _tied(own, kept)

    changed = [KeyShapes(key, tuple(given[key].shape), tuple(own[key].shape)) for key in arranged]
    changed = [row for row in changed if row.checkpoint != row.network]
    reshaped = {row.key for row in changed if row.key in tensors}
    report = LoadReport(
        source="+".join(sorted(set(layouts.values()))) or "plain",
        loaded=tuple(key for key in own if key in twins or (key in tensors and key not in reshaped)),
        reshaped=tuple(row for row in changed if row.key in tensors),
        kept=tuple(key for key in absent if key in kept),
        skipped=tuple(key for key in skipped if key not in twins),
        dropped=dropped,
        missing=tuple(key for key in absent if key not in kept),
        unexpected=tuple(origin[key] for key in given if key not in own),
        mismatched=tuple(row for row in changed if row.key not in tensors),
    )
    return _Plan(tensors, resting, report)


def _skipped(skip: Sequence[str], keys: Sequence[str]) -> dict[str, None]:
    """The keys that ``skip`` names, as an ordered set."""
    found: dict[str, None] = {}
    for name in skip:
        matches = [key for key in keys if key == name or key.startswith(f"{name}.")]
        if not matches:
            raise ValueError(
                f"`skip` names '{name}', which is no module or key of the network or the checkpoint; "
                "give the name from its start and in full, such as 'fc' or 'layer1.0.conv1.weight'."
            )
        found |= dict.fromkeys(matches)
    return found


def _tied(own: Mapping[str, Tensor], keys: Collection[str]) -> set[str]:
    """All names that the network has for the tensors with these keys."""
    tensors = {id(own[key]) for key in keys}
    return {key for key, tensor in own.items() if id(tensor) in tensors}


def _check_tied(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    first_key: dict[int, str] = {}
    for key, tensor in tensors.items():
        first = first_key.setdefault(id(own[key]), key)
        if first != key and not torch.equal(tensors[first], tensor):
            raise ValueError(
                f"'{first}' and '{key}' are one tensor in the network, but differ in the checkpoint; "
                "name the one to leave out in `skip`."
            )


def _kept(
    net: nn.Module,
    absent: Sequence[str],
    given: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    layouts: Mapping[str, str],
) -> tuple[set[str], list[ShiftPredictor]]:
    """The keys that the checkpoint rightly lacks, and the predictors that are to rest because of it."""
    kept = {key for key in absent if key.endswith(_COUNTER) and f"{key.removesuffix(_COUNTER)}running_mean" in given}
    resting = []
    for name, convolution in crossd_convolutions(net).items():
        predictor = convolution.predictor
        if predictor is None or layouts.get(name) not in ("2d", "3d"):
            continue
        keys = {join(name, f"predictor.{key}") for key in predictor.state_dict()}
        kept |= keys.intersection(absent)
        if keys.issubset(absent) and join(name, "weight") in tensors:
            resting.append(predictor)
    return kept, resting


def _refusal(where: str, report: LoadReport) -> str:
    """One sentence with every key that does not fit."""
    parts = []
    if report.missing:
        parts.append(f"missing {', '.join(map(repr, report.missing))}")
    if report.unexpected:
        parts.append(f"unexpected {', '.join(map(repr, report.unexpected))}")
    if report.mismatched:
        rows = (f"'{key}' {old} in the checkpoint, {new} in the network" for key, old, new in report.mismatched)
        parts.append(f"mismatched {', '.join(rows)}")
    return (
        f"{where} does not fit the network: {'; '.join(parts)}; "
        "name what is to stay in `skip`, or pass `strict=False` to load what fits."
    )
