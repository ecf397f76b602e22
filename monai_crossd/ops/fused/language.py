"""What kernels are written in: Triton where it is installed, and what they share.

Without Triton the modules of kernels import all the same; ``availability`` says where kernels run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # kernels are then functions that nobody calls
    triton = tl = None

__all__ = ["jit", "split_dot", "tl", "triton"]


def jit(*plain: str, counts: tuple[str, ...] = ()) -> Callable[[Callable], Any]:
    """``triton.jit`` if there is one.

    Of an integer it makes variants, where it is one and where 16 divides it, each compiled when it is first met.

    Args:
        plain: names of those that make none, such as the number of images.
        counts: names of those that make one, where they are one, so that a loop or a division is left out.
    """
    if triton is None:
        return lambda kernel: kernel
    return triton.jit(do_not_specialize=plain, do_not_specialize_on_alignment=counts)


@jit()
def split_dot(a, b, acc):
    """``acc + a b`` of float32, each as two bfloat16, of whose products three carry more than TF32 does.

    For sums over pixels: TF32 wants these side by side in memory, where channels are.
    """
    a_high, b_high = a.to(tl.bfloat16), b.to(tl.bfloat16)
    a_low = (a - a_high.to(tl.float32)).to(tl.bfloat16)
    b_low = (b - b_high.to(tl.float32)).to(tl.bfloat16)
    acc = tl.dot(a_high, b_high, acc)
    acc = tl.dot(a_high, b_low, acc)
    return tl.dot(a_low, b_high, acc)
