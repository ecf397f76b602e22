"""Cases as a dataset in which a bad one is an item with its reason, and no exception."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from monai.data import Dataset

from ..data.checks import check_volume
from ..data.volumes import VolumeError

__all__ = ["CaseDataset", "Refusal", "refusal"]

_LONGEST = 300  # letters of a message


class CaseDataset(Dataset):
    """Check each volume when its turn comes, and transform it.

    An item is what ``transform`` returns, or, where that fails, ``{"image": path, "case": name}`` with the fields of
    :class:`Refusal`, which :meth:`monai_crossd.cohort.Cohort.iteration` writes down.

    Args:
        data: ``[{"image": path, "case": name}, ...]``, as :attr:`monai_crossd.cohort.Cohort.share`.
        transform: the bundle's preprocessing.
        channels: how many channels the network takes, see :func:`monai_crossd.data.check_volume`.
        modality: what the network takes, such as ``"MR"``, see there.
    """

    def __init__(
        self,
        data: Sequence[dict[str, str]],
        transform: Callable[..., Any] | None = None,
        channels: int = 1,
        modality: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.channels = channels
        self.modality = modality

    def _transform(self, index: int) -> Any:
        case = self.data[index]
        try:
            check_volume(case["image"], self.channels, self.modality)
            return super()._transform(index)
        except Exception as error:  # whatever it is, the other cases go on
            return case | refusal(case["case"], error, "prepared")._asdict()


class Refusal(NamedTuple):
    """Why a case is refused.

    Attributes:
        refused: the reason in one sentence, without the path.
        traceback: where it happened; empty after a :class:`monai_crossd.data.VolumeError`, which says it all.
    """

    refused: str
    traceback: str


def refusal(case: str, error: Exception, act: str) -> Refusal:
    """Say why a case is refused.

    Args:
        case: its name.
        error: what was raised; its causes count, as MONAI's transforms raise a ``RuntimeError`` from them.
        act: what failed, such as ``"processed"``.
    """
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if isinstance(link, VolumeError):
            return Refusal(link.args[1], "")
    lines = str(chain[-1]).split("\n")
    if any(line.startswith("Traceback ") for line in lines):  # as `SaveImage` puts its writers' errors
        lines = [line for line in lines if line.strip()][-1:]
    cause = f"{type(chain[-1]).__name__}: {' '.join(' '.join(lines).split())[:_LONGEST]}".rstrip(": .")
    return Refusal(
        f"could not be {act} ({cause}); records/{case}.json has the traceback.",
        "".join(traceback.format_exception(error)),
    )
