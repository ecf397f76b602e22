"""A list of cases through a bundle's evaluator: what is done stays, what is bad is refused, the rest goes on."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

import monai_crossd

from ..data.screening import Screening, list_cases
from ..data.volumes import PathLike, Paths, VolumeError, case_name
from ..outputs.notice import NOTICE
from ..outputs.report import summary, write_report
from .dataset import refusal
from .flag import flag
from .processes import end_together, from_first, gather, leave_processes, rank, wait_for_all, world_size
from .progress import Progress
from .record import DONE, REFUSED, Record, Results
from .stamp import file_digest, input_stamp

__all__ = ["Cohort"]

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What the first process finds; all work by it, so that no case is lost or done twice.

    Attributes:
        listing: the inputs.
        cases: name to record of every case, as it is before its turn.
        todo: names of those that are not done.
        fault: why these cannot be done here; empty if they can.
    """

    listing: Screening
    cases: dict[str, Record]
    todo: list[str]
    fault: str


class Cohort:
    """The cases of a run, and what became of each.

    The writers of a bundle's postprocessing write to :attr:`staging_dir`. When a case is through, its files move to
    ``output_dir``, and ``records/<case>.json`` is written last. So a run that is killed leaves whole files only, and
    the next one goes on with what has no valid record. A case is run again if its input, the checkpoint, ``settings``
    or the version of this package has changed, or one of its files is gone; files that it no longer has are removed.
    Tables and page hold the cases of ``dataset_dir``, whichever run they are from.

    In a config: ``"$monai_crossd.cohort.join_processes()"`` to initialize, so that ``torchrun`` shares the cases out;
    ``"iteration_update": "$@cohort.iteration"`` in the evaluator; and ``"$@cohort.run(@evaluator)"`` to run.

    Args:
        dataset_dir: file, folder, datalist or list of these, see :func:`monai_crossd.data.find_volumes`.
        output_dir: folder to write to.
        checkpoint: file of the weights.
        settings: what else the results depend on, as in JSON.
        tables: what writes each table, by the key under which postprocessing gives a case's numbers; it is called as
            ``write(output_dir, [{"case": name, "file": path, key: numbers}, ...])``.
        title: heading of the page.
        overwrite: whether to run again what is done.
        fault: what says, before any work, why the volumes still to do cannot be done on this machine, in one sentence;
            it is called as ``fault(images)`` and returns None where they can.

    Attributes:
        staging_dir: where the files of the case in work are written, one folder per process.
        root: the closest folder above all inputs, for ``data_root_dir``.
        share: ``[{"image": path, "case": name}, ...]``, what this process is to do.

    Raises:
        SystemExit: if there is no case, with the reasons; or with what ``fault`` says.
        ValueError: if ``overwrite`` is neither true nor false.
    """

    def __init__(
        self,
        dataset_dir: Paths,
        output_dir: PathLike,
        checkpoint: PathLike,
        settings: Mapping[str, Any] | None = None,
        tables: Mapping[str, Callable[[Path, list[dict[str, Any]]], Any]] | None = None,
        title: str = "Results",
        overwrite: bool | str = False,
        fault: Callable[[list[str]], str | None] | None = None,
    ) -> None:
        again = flag("overwrite", overwrite)
        self._results = Results(output_dir, rank())
        self._tables = dict(tables or {})
        self._title = title
        model = {
            "checkpoint": file_digest(checkpoint),
            "settings": json.loads(json.dumps(settings or {}, default=str)),
            "tables": sorted(self._tables),
            "monai_crossd": monai_crossd.__version__,
        }
        self._plan = from_first(lambda: _plan(dataset_dir, self._results, model, again, fault))
        if not self._plan.cases:
            end_together(self._plan.listing.summary())
        end_together(self._plan.fault)
        self.staging_dir = os.fspath(self._results.staging_dir)
        self.root = self._plan.listing.root
        mine = (self._plan.cases[name] for name in self._plan.todo[rank() :: world_size()])
        self.share = [{"image": case.image, "case": case.case} for case in mine]
        self._own: list[Record] = []  # finished by this process
        self._lock = FileLock(self._results.records / ".lock")
        self._progress: Progress | None = None  # of the first process alone

    def run(self, evaluator: Any) -> None:
        """Run this process's share, wait for the others, and write tables and page.

        Args:
            evaluator: a MONAI evaluator over :attr:`share` whose ``iteration_update`` is :meth:`iteration`.

        Raises:
            SystemExit: at the end if inputs were refused, with all reasons; or if ``output_dir`` cannot be written to,
                or another run writes to it.
        """
        end_together(from_first(self._begin))
        try:
            if self.share:
                evaluator.run()
            wait_for_all(self._look)
            own = gather(self._own)
            if self._progress:
                self._progress.close(own)
                self._results.unstage()
                self._log(self._progress.finished)
        except OSError as error:
            raise SystemExit(self._unwritable(error)) from error
        finally:
            self._lock.release()
            leave_processes()
        if self._progress:
            end_together(self._outcome(self._progress.finished).summary())

    def iteration(self, engine: Any, batch: dict[str, Any]) -> Any:
        """Take one case through the engine's own iteration, and write what became of it.

        Args:
            engine: the evaluator.
            batch: one item of :class:`monai_crossd.cohort.CaseDataset`.

        Returns:
            The engine's output; None for a refused case.

        Raises:
            ValueError: if the batch holds several cases.
        """
        if len(batch["case"]) != 1:
            raise ValueError(f"`batch_size` must be 1, got {len(batch['case'])}: each case is done or refused alone.")
        case = self._plan.cases[batch["case"][0]]
        output = None
        if "refused" in batch:
            record = self._results.refuse(case, batch["refused"][0], batch["traceback"][0])
        else:
            try:
                self._results.stage()
                output = engine._iteration(engine, batch)
                record = self._results.keep(case, self._numbers(case, output[0]))
            except Exception as error:  # whatever it is, the other cases go on
                output = None
                record = self._results.refuse(case, *refusal(case.case, error, "processed"))
        self._own.append(record)
        self._look()
        return output

    def _numbers(self, case: Record, output: Mapping[str, Any]) -> dict[str, Any]:
        """What the tables take of a case."""
        for key in self._tables:
            if key not in output:
                raise VolumeError(
                    case.image,
                    f"is processed, but postprocessing gives no {key!r} for the cohort's `tables`; correct the config.",
                )
        return {key: output[key] for key in self._tables}

    def _begin(self) -> str:
        """Lock the folder, clear up what an earlier run left, and show how far that came; return what forbids it."""
        try:
            self._results.records.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._results.unstage()
            for name in self._plan.todo:
                self._results.set_aside(self._plan.cases[name])
            self._progress = Progress(self._results, list(self._plan.cases), self._publish)
        except Timeout:
            return f"{self._results.output_dir}: another run writes to it; wait for it or name another `output_dir`."
        except OSError as error:
            return self._unwritable(error)
        return ""

    def _unwritable(self, error: OSError) -> str:
        return (
            f"{self._results.output_dir}: cannot be written to ({error}); make room or name another `output_dir`, "
            "and run again: what is done stays."
        )

    def _look(self) -> None:
        if self._progress:
            self._progress.look()

    def _outcome(self, finished: list[Record]) -> Screening:
        """The listing, with the cases that were refused in their turn."""
        good = [{"image": case.image} for case in finished if case.state == DONE]
        refused = [VolumeError(case.image, case.reason) for case in finished if case.state == REFUSED]
        return self._plan.listing._replace(good=good, refused=[*self._plan.listing.refused, *refused])

    def _log(self, finished: list[Record]) -> None:
        outcome = self._outcome(finished)
        count = summary(len(outcome.good), len(outcome.refused))
        logger.info(f"{count} All on one page: {self._results.output_dir / 'index.html'}. {NOTICE}.")

    def _publish(self, finished: list[Record]) -> None:
        """Write tables and page over the finished cases."""
        rows = [
            {"case": one.case, "file": os.path.abspath(self._plan.cases[one.case].image), **one.results}
            for one in finished
            if one.state == DONE
        ]
        for key, write in self._tables.items():
            write(self._results.output_dir, [{name: row[name] for name in ("case", "file", key)} for row in rows])
        waiting = len(self._plan.cases) - len(finished)
        write_report(self._results.output_dir, rows, self._outcome(finished).refused, self._title, waiting)


def _plan(
    dataset_dir: Paths,
    results: Results,
    model: dict[str, Any],
    again: bool,
    fault: Callable[[list[str]], str | None] | None,
) -> Plan:
    listing = list_cases(dataset_dir, results.output_dir)
    cases = {}
    for case in listing.good:
        name = case_name(case["image"], listing.root)
        cases[name] = Record(name, case["image"], input_stamp(case["image"]), model)
    todo = [name for name in cases if again or not results.is_done(cases[name])]
    found = fault([cases[name].image for name in todo]) if fault else None
    return Plan(listing, cases, todo, found or "")
