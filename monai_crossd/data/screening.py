"""The cases that a user names, and what is refused: how a bundle treats a list of inputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .find import find_volumes
from .volumes import PathLike, Paths, VolumeError, as_list, case_name

__all__ = ["Screening", "list_cases"]

_LONGEST = 200  # bytes: file systems take 255, and results have postfixes


class Screening(NamedTuple):
    """What :func:`list_cases` found.

    Attributes:
        good: ``[{"image": path}, ...]``, for a dataset.
        refused: one error for each refused input; its ``args`` are the path and the reason.
        root: the closest folder above all inputs that were found. Given to ``SaveImage`` as ``data_root_dir``, it keeps
            files of one name in different folders apart.
    """

    good: list[dict[str, str]]
    refused: list[VolumeError]
    root: str

    def summary(self) -> str:
        """A line for each refused input below a line with their number; empty if there are none."""
        if not self.refused:
            return ""
        count = len(self.refused)
        return "\n  ".join(
            [f"Refused {count} of {count + len(self.good)} inputs:", *(str(error) for error in self.refused)]
        )


def list_cases(paths: Paths, output_dir: PathLike | None = None) -> Screening:
    """Find volumes, so that a path without any does not stop the others; what is in them is not looked at.

    Args:
        paths: file, folder or list of these, see :func:`find_volumes`.
        output_dir: folder of results, which are no inputs where it lies in a folder of ``paths``.

    Returns:
        The volumes, what was refused, and the folder above the volumes.

    Raises:
        ValueError: if ``paths`` is an empty list.
    """
    found: list[dict[str, str]] = []
    refused: list[VolumeError] = []
    folders: list[str] = []
    for path in as_list(paths):
        try:
            cases = _beside(find_volumes(path), path, output_dir)
        except VolumeError as error:
            refused.append(error)
            continue
        found += cases
        folders += _above(cases, path)
    root = os.path.commonpath(folders) if folders else ""

    good: dict[str, dict[str, str]] = {}
    for case in found:
        name = case_name(case["image"], root)
        length = len(os.fsencode(os.path.basename(name)))
        if length > _LONGEST:
            reason = f"must have a name of at most {_LONGEST} bytes for its results, got {length}; rename it."
        elif name in good:
            reason = f"has the same output name, {name!r}, as {good[name]['image']}; rename or drop one."
        else:
            good[name] = case
            continue
        refused.append(VolumeError(case["image"], reason))
    return Screening(list(good.values()), refused, root)


def _above(cases: list[dict[str, str]], path: PathLike) -> list[str]:
    """The folder given, unless it is a case itself, or the folders of the files given."""
    files = [os.path.abspath(case["image"]) for case in cases]
    folder = os.path.abspath(path)
    return [folder] if os.path.isdir(path) and folder not in files else [os.path.dirname(file) for file in files]


def _beside(cases: list[dict[str, str]], path: PathLike, output_dir: PathLike | None) -> list[dict[str, str]]:
    """Leave out results."""
    if output_dir is None or not os.path.isdir(path):
        return cases
    folder, results = Path(path).resolve(), Path(output_dir).resolve()
    if folder == results:
        raise VolumeError(path, "must not be `output_dir` too, results would be taken for volumes; name another one.")
    if folder not in results.parents:
        return cases
    cases = [case for case in cases if not Path(case["image"]).parent.resolve().is_relative_to(results)]
    if not cases:
        raise VolumeError(path, f"holds no volumes but those of `output_dir`, {output_dir}; name another folder.")
    return cases
