"""Every image convolved with its own kernel, by torch's own operators in eager mode.

The batch is cut into parts whose temporary tensors stay small, and the backward pass makes them anew, so the kernels of
a whole batch never stand in memory. Four forms, each a preparation that is cheap and dense calls:

- ``grouped``: one kernel per image, ``k = U M^T``; the images of a part are the groups of one convolution.
- ``each``: the same, but one convolution after the other: for images of few channels, whose groups are narrow.
- ``matrices``: the kernels of some outputs at a time as a matrix for each image, times its columns: for images of some
  hundred pixels, whose kernels take a convolution longer to arrange than to multiply.
- ``columns``: no kernels; ``y = U (M^T columns(x))``, one product of matrices with ``K^3`` instead of ``K^2`` numbers
  per channel. ``K`` times the operations of the convolution, but nothing to form per image: it wins where an image has
  few pixels.

``U`` is the knowledge base, ``M`` the operator of :func:`monai_crossd.ops.shift_operator`.
"""

from .arguments import ConvArguments, output_size
from .function import FORMS, apart, conv_per_image, graph_of_gradients, is_batched, is_transformed
from .grouped import grouped_conv

__all__ = [
    "FORMS",
    "ConvArguments",
    "apart",
    "conv_per_image",
    "graph_of_gradients",
    "grouped_conv",
    "is_batched",
    "is_transformed",
    "output_size",
]
