"""What is known of each case: one small JSON per case, the last thing that is written of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.volumes import PathLike
from ..outputs.table import replace_file

__all__ = ["DONE", "REFUSED", "WAITING", "Record", "Results"]

DONE, REFUSED, WAITING = "done", "refused", "waiting"


@dataclass(frozen=True)
class Record:
    """One case.

    Attributes:
        case: name of its results, see :func:`monai_crossd.data.case_name`.
        image: the volume.
        input: the volume's :func:`monai_crossd.cohort.stamp.input_stamp`.
        model: what the results depend on beside it.
        state: ``"done"``, ``"refused"``, or ``"waiting"`` where files are there that do not count.
        results: numbers for the tables, by key.
        files: its files below ``output_dir``, with their sizes in bytes.
        reason: why it was refused.
        traceback: where, if the reason is not enough.
    """

    case: str
    image: str
    input: str
    model: dict[str, Any]
    state: str = WAITING
    results: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    traceback: str = ""


class Results:
    """Files and records of cases in an output folder.

    Writers write to ``staging_dir``; :meth:`keep` moves their files, each in one step, and then writes the record
    ``records/<case>.json``. So every file in place is whole, and a record says ``"done"`` only when all are in place.

    Args:
        output_dir: the folder.
        process: number of this process, which has a staging folder of its own.
    """

    def __init__(self, output_dir: PathLike, process: int = 0) -> None:
        self.output_dir = Path(output_dir)
        self.records = self.output_dir / "records"
        self._staging = self.output_dir / ".partial"
        self.staging_dir = self._staging / str(process)

    def read(self, case: str) -> Record | None:
        """The record of a case; None where there is none, or none that can be read."""
        try:
            return Record(**json.loads(self._file(case).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_done(self, new: Record) -> bool:
        """Whether the results of this very input by this very model are there, each file as long as it was."""
        old = self.read(new.case)
        if old is None or (old.state, old.input, old.model) != (DONE, new.input, new.model):
            return False
        return all(_size(self.output_dir / name) == size for name, size in old.files.items())

    def set_aside(self, new: Record) -> None:
        """Let what a case has from before count no more; its files stay until there are new ones."""
        old = self.read(new.case)
        if old is not None:
            self._write(replace(new, files=old.files))

    def stage(self) -> None:
        """Make the staging folder anew, for the next case."""
        shutil.rmtree(self.staging_dir, ignore_errors=True)
        self.staging_dir.mkdir(parents=True)

    def unstage(self) -> None:
        """Remove the staging folders of all processes, those of a run that was killed too."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def keep(self, new: Record, results: dict[str, Any]) -> Record:
        """Move the staged files to their places, remove older ones of the case, and write that it is done."""
        staged = {file.relative_to(self.staging_dir): file for file in self.staging_dir.rglob("*") if file.is_file()}
        files = {name.as_posix(): file.stat().st_size for name, file in staged.items()}
        old = self._old_files(new.case)
        self._write(replace(new, files=old | files))  # if the next steps fail, these are known
        for name, file in staged.items():
            place = self.output_dir / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
        self._remove(old.keys() - files.keys())
        return self._write(replace(new, state=DONE, results=results, files=files))

    def refuse(self, new: Record, reason: str, traceback: str = "") -> Record:
        """Remove the files of the case and write why it has none."""
        self._remove(self._old_files(new.case))
        return self._write(replace(new, state=REFUSED, reason=reason, traceback=traceback))

    def _old_files(self, case: str) -> dict[str, int]:
        old = self.read(case)
        return old.files if old else {}

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if (self.output_dir / name).is_file():
                (self.output_dir / name).unlink()

    def _file(self, case: str) -> Path:
        return self.records / f"{case}.json"

    def _write(self, record: Record) -> Record:
        file = self._file(record.case)
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(asdict(record), indent=2) + "\n")
        return record


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
