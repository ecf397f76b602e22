"""From a file or a mapping to one flat state dict of tensors."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["describe", "read_state_dict", "strip_wrappers"]

#: names under which training scripts file a network's weights
_NETWORK_NAMES = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "network_weights",
    "ema",
    "model_ema",
    "state_dict_ema",
)
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and DistributedDataParallel, of torch.compile


def read_state_dict(path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the one state dict that a file or a mapping holds, at the top or under a name such as ``"model"``.

    Args:
        path_or_state_dict: file of :func:`torch.save`, or its content. Nothing but tensors and plain containers is
            unpickled.

    Returns:
        The tensors by name; those of a file on the CPU.

    Raises:
        TypeError: if it is neither a path nor a mapping.
        ValueError: if the file cannot be read, or holds no state dict or several.
    """
    content: Any = path_or_state_dict
    where = describe(content)
    if isinstance(content, (str, os.PathLike)):
        content = _read_file(Path(content), where)
    elif not isinstance(content, Mapping):
        raise TypeError(f"`path_or_state_dict` must be a path or a mapping, got {type(content).__name__}.")
    content = _unwrap(content, where)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{where} must map names to tensors, but has an entry {name!r} of type {type(value).__name__}; "
                "pass the network's own state dict."
            )
    return dict(content)


def describe(path_or_state_dict: Any) -> str:
    """The checkpoint as messages name it."""
    if isinstance(path_or_state_dict, (str, os.PathLike)):
        return f"checkpoint '{os.fspath(path_or_state_dict)}'"
    return "the state dict"


def _read_file(path: Path, where: str) -> Any:
    if not path.is_file():
        raise ValueError(f"{where} is not a file; check the path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load meets bad bytes with nearly every kind of them
        if "weights_only" in str(error) and ("GLOBAL" in str(error) or zipfile.is_zipfile(path)):
            raise ValueError(
                f"{where} holds more than tensors and plain containers, which may run code and is refused; "
                "if you trust its origin, load it yourself and pass the state dict."
            ) from error
        raise ValueError(
            f"{where} cannot be read ({type(error).__name__}), it is damaged or none of `torch.save`; "
            "get it anew or pass a state dict."
        ) from error


def _unwrap(content: Any, where: str) -> Mapping[str, Any]:
    """Descend to the mapping that holds the tensors."""
    while True:
        if not isinstance(content, Mapping):
            raise ValueError(f"{where} holds a {type(content).__name__}, no mapping of names to tensors; save one.")
        found = [name for name in _NETWORK_NAMES if isinstance(content.get(name), Mapping)]
        if len(found) > 1:
            raise ValueError(
                f"{where} holds several networks, {', '.join(map(repr, found))}; load it yourself and pass one of them."
            )
        if not found:
            return content
        content = content[found[0]]


def strip_wrappers(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Take off prefixes such as ``"module."`` that every key carries and the network's ``own`` keys do not."""
    for prefix in _WRAPPERS * 2:  # they nest in both orders
        if state and all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
