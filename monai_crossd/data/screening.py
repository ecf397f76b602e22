"""Good volumes go on, refused ones are summed up at the end: how a bundle treats a list of inputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from .checks import check_volume
from .find import find_volumes
from .volumes import Paths, VolumeError, as_list, case_name

__all__ = ["Screening", "raise_refused", "screen"]


class Screening(NamedTuple):
    """What :func:`screen` found.

    Attributes:
        good: ``[{"image": path}, ...]``, for a dataset.
        refused: one error for each refused input; its ``args`` are the path and the reason.
        root: the closest folder above all inputs that were found. Given to ``SaveImage`` as ``data_root_dir``, it keeps
            files of one name in different folders apart.
    """

    good: list[dict[str, str]]
    refused: list[VolumeError]
    root: str


def screen(paths: Paths, channels: int = 1, modality: str | Sequence[str] | None = None) -> Screening:
    """Find volumes and check each of them, so that a bad one does not stop the others.

    Args:
        paths: file, folder or list of these, see :func:`find_volumes`.
        channels: how many channels the network takes.
        modality: what the network takes, such as ``"MR"``, see :func:`check_volume`.

    Returns:
        The good volumes, the refused ones, and the folder above them.

    Raises:
        SystemExit: if no good volume is left, with :func:`raise_refused`'s summary.
        ValueError: if ``paths`` is an empty list.
    """
    found: list[dict[str, str]] = []
    refused: list[VolumeError] = []
    folders: list[str] = []
    for path in as_list(paths):
        try:
            found += find_volumes(path)
            folders.append(os.path.abspath(path if Path(path).is_dir() else Path(path).parent))
        except VolumeError as error:
            refused.append(error)
    root = os.path.commonpath(folders) if folders else ""

    good: dict[str, dict[str, str]] = {}
    for case in tqdm(found, desc="Checking volumes", disable=len(found) < 2):
        name = case_name(case["image"], root)
        try:
            if name in good:
                other = good[name]["image"]
                raise VolumeError(case["image"], f"has the same output name, {name!r}, as {other}; rename or drop one.")
            check_volume(case["image"], channels, modality)
            good[name] = case
        except VolumeError as error:
            refused.append(error)

    screening = Screening(list(good.values()), refused, root)
    if not good:
        raise_refused(screening)
    return screening


def raise_refused(screening: Screening) -> None:
    """End the process with a summary of the refused inputs; do nothing if there are none.

    Args:
        screening: result of :func:`screen`.

    Raises:
        SystemExit: if an input was refused. Python prints the summary to stderr and returns 1, without a traceback.
    """
    if screening.refused:
        count = len(screening.refused)
        lines = [f"Refused {count} of {count + len(screening.good)} inputs:", *map(str, screening.refused)]
        raise SystemExit("\n  ".join(lines))
