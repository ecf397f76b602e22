"""What tests of the fused kernels share: where they run, and a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_crossd.layers import CrossDConv
from monai_crossd.ops.fused.availability import available

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_kernels = pytest.mark.skipif(
    not available(torch.zeros(1, device=DEVICE)), reason="needs Triton, and CUDA or TRITON_INTERPRET=1"
)


def layer(channels: int = 4, outputs: int = 17, size: int = 3, **arguments) -> CrossDConv:
    """A layer whose images differ in their shifts and whose statistics are not at their start."""
    conv = CrossDConv(channels, outputs, size, **arguments)
    for parameter in conv.predictor[3].parameters():
        nn.init.normal_(parameter)
    conv.predictor[1].running_mean.normal_()
    conv.predictor[1].running_var.uniform_(0.5, 2)
    return conv.to(DEVICE)
