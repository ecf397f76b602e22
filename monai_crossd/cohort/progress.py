"""How far a cohort is: a bar, and tables and page that grow with it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from .record import DONE, REFUSED, Record, Results

__all__ = ["Progress"]

_LOOK, _PUBLISH = 0.5, 10.0  # s, at least, between two looks at the records and between two versions of the tables


class Progress:
    """Follow the cases of all processes by their records, and show them as a bar.

    Args:
        results: where the records are.
        cases: names of all cases, in the order of the tables.
        publish: writes tables and page from the records of the finished cases.
    """

    def __init__(self, results: Results, cases: Sequence[str], publish: Callable[[list[Record]], None]) -> None:
        self._results = results
        self._publish = publish
        self._found: dict[str, Record | None] = dict.fromkeys(cases)
        self._looked = self._published = float("-inf")
        count = self._read()
        self._bar = tqdm(total=len(cases), initial=count, desc="Cases", unit="case", disable=len(cases) < 2)

    @property
    def finished(self) -> list[Record]:
        """Records of the cases that are done or refused, in their order."""
        return [record for record in self._found.values() if record]

    def look(self) -> None:
        """Bring the bar up to date, and now and then tables and page."""
        if time.monotonic() < self._looked + _LOOK:
            return
        self._bar.update(self._read())
        self._looked = time.monotonic()
        if self._looked >= self._published + _PUBLISH:
            self._publish(self.finished)
            self._published = time.monotonic()

    def close(self, parts: list[list[Record]]) -> None:
        """Bring all up to date and end the bar.

        Args:
            parts: what each process finished; a file system shared by machines may show their records late.
        """
        count = self._read()
        for record in itertools.chain(*parts):
            count += self._found[record.case] is None
            self._found[record.case] = record
        self._bar.update(count)
        self._bar.close()
        self._publish(self.finished)

    def _read(self) -> int:
        """Count the cases finished since the last time."""
        count = 0
        for case in [case for case, record in self._found.items() if record is None]:
            record = self._results.read(case)
            if record and record.state in (DONE, REFUSED):
                self._found[case] = record
                count += 1
        return count
