"""Many cases through one bundle: restartable, over several processes, a bad case beside good ones."""

from __future__ import annotations

from .cohort import Cohort
from .dataset import CaseDataset
from .flag import flag
from .processes import join_processes, local_device

__all__ = ["CaseDataset", "Cohort", "flag", "join_processes", "local_device"]
