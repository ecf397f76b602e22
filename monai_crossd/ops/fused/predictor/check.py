"""What the predictor's kernels refuse."""

from __future__ import annotations

from torch import Tensor

from ..availability import DTYPES, available

__all__ = ["check"]


def check(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool) -> None:
    """Refuse what the kernels cannot take.

    Args:
        x: ``(B, C, H, W)``, what the predictor reads.
        running_mean: of BatchNorm2d, ``None`` where none is tracked.
        running_var: likewise.
        training: normalize with the batch's statistics.

    Raises:
        RuntimeError: if the kernels do not run on ``x``.
        ValueError: if statistics are missing or one value per channel is to be normalized by itself.
    """
    if not available(x) or x.dtype not in DTYPES:
        message = f"`x` must be float32, bfloat16 or float16 on CUDA with Triton, got {x.dtype} on {x.device}"
        raise RuntimeError(message + "; use the plain modules.")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("`running_mean` and `running_var` must be given in eval mode, got None; set `training=True`.")
    if training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"`x` must have more than one value per channel in training, got shape {tuple(x.shape)}.")
