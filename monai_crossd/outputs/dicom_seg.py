"""The label map as DICOM segmentation, where the image was a DICOM series."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pydicom
from monai.config import KeysCollection
from monai.data.utils import orientation_ras_lps
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

import monai_crossd

from ..data.series import Series, is_series_path, one_series
from ..data.stack import Geometry, check_series
from ..data.volumes import NIFTI, OTHERS, PathLike, VolumeError, folder_fault, suffix
from .label_map import LabelMap, LabelMapOutputd
from .notice import NOTICE

__all__ = ["SaveDicomSegd", "dicom_seg_fault"]

_logger = logging.getLogger(__name__)

_Code = Sequence[str]  # value, scheme, meaning


class _Codes(NamedTuple):
    """What a segment is."""

    type: _Code
    category: _Code
    modifiers: Sequence[_Code] = ()


#: of DICOM PS3.16 CID 7150, the categories
_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
_TISSUE = ("85756007", "SCT", "Tissue")
_ALGORITHM = ("123110", "DCM", "Artificial Intelligence")
#: what highdicom copies from a source, and what may be unknown but not absent in it
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
#: how far a voxel may lie from the source's, in voxels
_TOLERANCE = 0.05
#: characters of DICOM's long string
_LONGEST = 64


class SaveDicomSegd(LabelMapOutputd):
    """Write ``<case>_seg.dcm``, a DICOM segmentation (PS3.3 A.51) that references the series the image was read from.

    Nothing is written for an image that was no DICOM series. A segment per structure, binary, numbered from 1 in the
    order of ``structures``, with a frame for each slice of the series, empty or not; other label values are left out.
    A frame has position and orientation of its slice. The file is read back and compared before it gets its name.
    Needs highdicom, which is imported when there is something to write; :func:`dicom_seg_fault` asks for it before.

    Args:
        keys: the key of the label map, one.
        output_dir: folder to write to, made when needed.
        structures: label value to name, which becomes the segment's label, of at most 64 characters.
        model_name: the algorithm's name, of at most 64 characters.
        model_version: its version, of at most 64 characters.
        codes: label value to ``{"type": code, "category": code, "modifiers": [code, ...]}``, a code being value, scheme
            and meaning, such as ``["5366008", "SCT", "Hippocampus"]``. ``"category"`` is Anatomical Structure where it
            is left out; a structure without an entry is coded as Tissue, and a warning is logged.
        data_root_dir: folder above the images; a case is named by its path below it, or by its file name alone.

    Raises:
        ValueError: if a code is not that of a structure or not three texts, or a name or version is too long.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        structures: Mapping[int, str] | Mapping[str, str],
        model_name: str,
        model_version: str,
        codes: Mapping[int, Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | None = None,
        data_root_dir: PathLike = "",
    ) -> None:
        super().__init__(keys, output_dir, structures, data_root_dir)
        texts = [("model_name", model_name), ("model_version", model_version)]
        for argument, text in [*texts, *(("structures", name) for name in self.structures.values())]:
            if not isinstance(text, str) or not 1 <= len(text) <= _LONGEST:
                raise ValueError(f"`{argument}` must be text of 1 to {_LONGEST} characters for DICOM, got {text!r}.")
        self.model_name, self.model_version = model_name, model_version
        self.codes = _read_codes(codes or {}, self.structures)
        uncoded = [name for value, name in self.structures.items() if value not in self.codes]
        if uncoded:
            _logger.warning("No code in `codes` for %s: written to DICOM-SEG as Tissue.", ", ".join(uncoded))

    def write(self, label_map: LabelMap) -> None:
        """Write the segmentation of one case.

        Raises:
            ModuleNotFoundError: if highdicom is not installed.
            VolumeError: if the label map is not on the grid of its series, the series lacks what a segmentation must
                copy from it, or what was written is not what was meant.
        """
        if suffix(label_map.file) in (*NIFTI, *OTHERS):
            return
        highdicom = _highdicom()
        series = _series(label_map)
        geometry = check_series(series, tilted=True)
        labels = _as_frames(label_map, series, geometry)
        frames = np.zeros(labels.shape, np.min_scalar_type(len(self.structures)))
        for number, value in enumerate(self.structures, start=1):
            frames[labels == value] = number
        sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in geometry.files]
        uids = [source.get("SOPInstanceUID") for source in sources]
        if len(set(uids)) < len(uids):
            raise VolumeError(
                series.folder,
                f"{series} must have a SOPInstanceUID for each slice to be referenced, got {len(set(uids))} for "
                f"{len(uids)} slices; export the series again.",
            )
        segments = self._segments(highdicom)
        try:
            segmentation = self._segmentation(highdicom, frames, segments, sources, geometry.spacing)
        except (AttributeError, TypeError, ValueError) as error:
            cause = " ".join(str(error).split()).rstrip(".")
            raise VolumeError(
                series.folder, f"{series} cannot be the source of a DICOM-SEG ({cause}); complete its tags."
            ) from error
        path = self.output_dir / f"{label_map.case}_seg.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            segmentation.save_as(partial)
            written = highdicom.seg.segread(partial).get_pixels_by_source_instance(uids, combine_segments=True)
            if not np.array_equal(written, frames):
                raise VolumeError(path, "reads back as another segmentation than was written; check the disk.")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _segments(self, highdicom: ModuleType) -> list[pydicom.Dataset]:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            self.model_name, highdicom.sr.CodedConcept(*_ALGORITHM), self.model_version
        )
        segments = []
        for number, (value, name) in enumerate(self.structures.items(), start=1):
            codes = self.codes.get(value, _Codes(_TISSUE, _TISSUE))
            segment = highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=highdicom.sr.CodedConcept(*codes.category),
                segmented_property_type=highdicom.sr.CodedConcept(*codes.type),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
            modifiers = [highdicom.sr.CodedConcept(*modifier) for modifier in codes.modifiers]
            if modifiers:
                segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifiers
            segments.append(segment)
        return segments

    def _segmentation(
        self,
        highdicom: ModuleType,
        frames: NDArray[Any],
        segments: list[pydicom.Dataset],
        sources: list[pydicom.FileDataset],
        spacing: NDArray[np.float64],
    ) -> pydicom.Dataset:
        """The object for segment numbers ``(slices, rows, columns)``, a frame per source."""
        first = sources[0]
        for name in _MAY_BE_EMPTY:
            first.setdefault(name, "")
        columns, rows, slices = spacing
        return highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            pixel_measures=highdicom.PixelMeasuresSequence(
                (rows, columns), slice_thickness=first.get("SliceThickness") or slices, spacing_between_slices=slices
            ),
            omit_empty_frames=False,
            series_instance_uid=highdicom.UID(),
            series_number=1000 + int(first.get("SeriesNumber") or 0),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="monai_crossd",
            manufacturer_model_name=self.model_name,
            software_versions=f"monai_crossd {monai_crossd.__version__}",
            device_serial_number="none",
            content_label="SEGMENTATION",
            content_description=NOTICE,
            series_description=f"Segmentation. {NOTICE}",
        )


def dicom_seg_fault(images: Sequence[PathLike]) -> str | None:
    """Say in one sentence why the results of volumes cannot be written as DICOM-SEG here.

    Args:
        images: paths as :func:`monai_crossd.data.find_volumes` gives them.

    Returns:
        None where they can, or where none is a DICOM series.
    """
    series = [path for path in images if is_series_path(path) or (Path(path).is_dir() and not folder_fault(path))]
    if not series:
        return None
    try:
        _highdicom()
    except ModuleNotFoundError as error:
        return str(error)
    return None


def _highdicom() -> ModuleType:
    try:
        import highdicom
    except ImportError as error:
        raise ModuleNotFoundError(
            f"highdicom is needed to write the results of DICOM series as DICOM-SEG, but cannot be imported ({error}); "
            'install it by `pip install "monai_crossd[dicom-seg]"`, or go without by `dicom_seg` False.'
        ) from None
    return highdicom


def _read_codes(codes: Mapping[Any, Mapping[str, Any]], structures: Mapping[int, str]) -> dict[int, _Codes]:
    for value, code in codes.items():
        if not str(value).isdecimal() or int(value) not in structures:
            raise ValueError(f"`codes` must have labels of `structures`, {list(structures)}, got {value!r}.")
        given = code if isinstance(code, Mapping) else {}
        parts = [given.get("type"), given.get("category", _STRUCTURE), *given.get("modifiers", ())]
        if not given.keys() <= set(_Codes._fields) or not all(map(_is_code, parts)):
            raise ValueError(
                f"`codes` must give {value!r} a 'type' and, where wanted, a 'category' and a list of 'modifiers', "
                f'codes such as ["5366008", "SCT", "Hippocampus"], got {code}.'
            )
    return {int(value): _Codes(**{"category": _STRUCTURE, **code}) for value, code in codes.items()}


def _is_code(code: object) -> bool:
    """Value and scheme of at most 16 characters and a meaning, as DICOM limits them."""
    texts = code if isinstance(code, (list, tuple)) else ()
    return (
        len(texts) == 3
        and all(isinstance(text, str) and text for text in texts)
        and all(len(text) <= most for text, most in zip(texts, (16, 16, _LONGEST), strict=True))
    )


def _series(label_map: LabelMap) -> Series:
    """The series, found again: metadata that were a list of files would not go through a batch."""
    path = Path(label_map.file)
    uid = label_map.labels.meta.get("series_instance_uid")
    return one_series(path.parent if path.is_file() else path, uid)


def _as_frames(label_map: LabelMap, series: Series, geometry: Geometry) -> NDArray[Any]:
    """Turn a label map with any order and direction of axes to ``(slices, rows, columns)`` in the series' order."""
    theirs = np.eye(4)  # columns, rows, slices -> mm, LPS
    theirs[:3, :3] = geometry.direction * geometry.spacing
    theirs[:3, 3] = geometry.origin
    labels = label_map.labels.numpy(force=True)[0]  # (1, D1, D2, D3) -> (D1, D2, D3)
    ours = orientation_ras_lps(label_map.labels.affine.numpy(force=True).astype(np.float64))
    to_theirs = np.linalg.inv(theirs) @ ours
    turn = io_orientation(to_theirs)
    labels = apply_orientation(labels, turn)  # (columns, rows, slices)
    first = series.slices[0].tags
    grid = (int(first.Columns), int(first.Rows), len(geometry.files))
    off = to_theirs @ inv_ornt_aff(turn, label_map.labels.shape[1:]) - np.eye(4)
    if labels.shape != grid or np.abs(off * [*grid, 1]).max() > _TOLERANCE:
        raise VolumeError(
            series.folder,
            f"{series} has a grid of {grid} voxels that its label map, {labels.shape}, is not on; place SaveDicomSegd "
            "after `Invertd`, and write no DICOM-SEG of a tilted series that was resampled.",
        )
    return labels.T
