"""What graphs of torch.compile hold."""

from __future__ import annotations

from collections.abc import Callable

import torch


def recorder() -> tuple[list[str], Callable]:
    """A backend of torch.compile that runs graphs as they are, and the names of what those hold that it was given."""
    names: list[str] = []

    def record(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    return names, record


def our_operators(names: list[str]) -> list[str]:
    """Those that this package registers."""
    return [name for name in names if "monai_crossd" in name]
