"""A picture of each segmentation: three planes with contours, for a first look."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Orientation
from numpy.typing import NDArray

from ..data.reader import SimpleITKReader
from ..data.volumes import PathLike
from ..transforms.intensity import hu_window
from .label_map import LabelMap, LabelMapOutputd
from .notice import NOTICE

__all__ = ["SavePreviewd"]

#: Okabe and Ito's colors, told apart by color-blind eyes too; the ones that stand out from gray first
_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
_COLUMNS = 3  # of the legend
_BACKGROUND, _FOREGROUND, _QUIET = "#111111", "#F2F2F2", "#9A9A9A"

#: name, axis that the plane cuts, and what lies left, right, above and below, in radiological convention
_PLANES = (("Axial", 2, "RLAP"), ("Coronal", 1, "RLSI"), ("Sagittal", 0, "APSI"))
_LETTERS_AT = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.97), (0.5, 0.03))  # fractions of the plane
_ALIGNED = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))


class SavePreviewd(LabelMapOutputd):
    """Write ``<case>_preview.png``: the planes through the middle of the segmentation, its contours and volumes.

    The planes are axial, coronal and sagittal to the nearest of the image's axes, all three at one scale in mm, with
    the patient's right at the left of the picture. They meet in the segmented voxel that is nearest to the
    segmentation's centroid, or in the middle of the image if nothing is segmented. Beyond seven structures the colors
    repeat. Black and white are the ends of ``window``, which the picture names; without one they are the percentiles
    0.5 and 99.5 of the image.

    Args:
        keys: the key of the label map, one.
        output_dir: folder to write to.
        structures: label value to name; others are not drawn.
        data_root_dir: folder above the images; a case is named by its path below it, or by its file name alone.
        window: for CT, one of :data:`monai_crossd.transforms.HU_WINDOWS`, or center and width in HU.

    Raises:
        ValueError: for a window that :class:`monai_crossd.transforms.HUWindow` refuses.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        structures: Mapping[int, str] | Mapping[str, str],
        data_root_dir: PathLike = "",
        window: str | Sequence[float] | None = None,
    ) -> None:
        super().__init__(keys, output_dir, structures, data_root_dir)
        self.window = None if window is None else hu_window(window)

    def write(self, label_map: LabelMap) -> None:
        """Write the picture of one case.

        Raises:
            ValueError: if the label map is not on the grid of its file.
        """
        reader = SimpleITKReader()
        source, _ = reader.get_data(reader.read(label_map.file))
        grid = tuple(label_map.labels.shape[1:])
        if source.shape[:3] != grid:
            raise ValueError(
                f"{label_map.file}: its grid is {source.shape[:3]}, but the label map's is {grid}; "
                f"place {self._name} after `Invertd`."
            )
        pixels = torch.from_numpy(source.astype(np.float32)).reshape(1, *grid)
        image, spacing = _to_ras(MetaTensor(pixels, affine=label_map.labels.affine))
        labels, _ = _to_ras(label_map.labels)
        low, high = self.window.ends if self.window else np.percentile(image, (0.5, 99.5))
        figure = _draw(image, labels, spacing, self.structures, (low, high))
        gray = [f"Gray from {low:g} to {high:g} HU"] if self.window else []
        _caption(figure, label_map.case, label_map.volumes(self.structures), [*gray, NOTICE])
        path = self.output_dir / f"{label_map.case}_preview.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # boxes, for a name in other letters
            figure.savefig(path, facecolor=_BACKGROUND)


def _to_ras(volume: MetaTensor) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Turn the axes to right, front and top: an array ``(D1, D2, D3)``, and its voxel's edges in mm, ``(3,)``."""
    turned = cast(MetaTensor, Orientation("RAS", labels=None)(volume))
    return turned.numpy(force=True)[0], turned.pixdim.numpy(force=True)  # (1, D1, D2, D3) -> (D1, D2, D3)


def _middle(shown: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.intp]:
    """Find the true voxel that is nearest to the centroid of all, or else the middle; voxel index, shape ``(3,)``."""
    voxels = np.argwhere(shown)
    if not len(voxels):
        return np.array(shown.shape) // 2
    offsets = (voxels - voxels.mean(0)) * spacing  # (N, 3), mm
    return voxels[np.argmin((offsets**2).sum(1))]


def _draw(
    image: NDArray[Any],
    labels: NDArray[Any],
    spacing: NDArray[np.float64],
    structures: Mapping[int, str],
    gray: tuple[float, float],
) -> Figure:
    """Draw the three planes of an image and a label map in RAS axes, both ``(D1, D2, D3)``, side by side.

    ``gray`` holds the values that are black and white.
    """
    x, y, z = np.array(image.shape) * spacing  # mm
    scale = 11 / max(2 * x + y, z)  # inches per mm
    above, below = 0.85, 0.5 + 0.35 * -(-len(structures) // _COLUMNS)  # inches, for the caption
    width, height = 12, max(y, z) * scale + above + below
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)

    low, high = gray
    middle = _middle(np.isin(labels, list(structures)), spacing)
    left = (11.5 - (2 * x + y) * scale) / 2
    for name, axis, letters in _PLANES:
        # seen from the feet, the front and the left: both axes of the transposed plane run backwards
        cut, mask = (np.take(volume, middle[axis], axis).T[::-1, ::-1] for volume in (image, labels))
        edges = np.delete(spacing, axis)  # mm: width and height of a pixel
        w, h = np.array(cut.shape[::-1]) * edges * scale
        bottom = below + (height - above - below - h) / 2
        axes = figure.add_axes((left / width, bottom / height, w / width, h / height))
        extent = (0, w / scale, h / scale, 0)  # mm
        axes.imshow(cut, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bicubic")
        axes.autoscale(False)  # contours do not widen the view
        _contours(axes, mask, edges, structures)
        _letters(axes, name, letters)
        left += w + 0.25
    return figure


def _contours(axes: Axes, mask: NDArray[Any], edges: NDArray[np.float64], structures: Mapping[int, str]) -> None:
    mask = np.pad(mask, 1)  # so that contours close at the image's border
    rows, columns = ((np.arange(n) - 0.5) * edge for n, edge in zip(mask.shape, edges[::-1], strict=True))
    for index, value in enumerate(structures):
        inside = mask == value
        if inside.any():
            axes.contour(columns, rows, inside, [0.5], colors=_COLORS[index % len(_COLORS)], linewidths=2)


def _letters(axes: Axes, name: str, letters: str) -> None:
    axes.set_title(name, color=_QUIET, fontsize=11)
    axes.set_axis_off()
    outline = [withStroke(linewidth=3, foreground=_BACKGROUND)]
    for letter, (x, y), (ha, va) in zip(letters, _LETTERS_AT, _ALIGNED, strict=True):
        text = axes.text(x, y, letter, ha=ha, va=va, transform=axes.transAxes, path_effects=outline)
        text.set(color=_FOREGROUND, fontsize=13, weight="bold")


def _caption(figure: Figure, case: str, volumes: Mapping[str, float], notes: Sequence[str]) -> None:
    inch = 1 / figure.get_figheight()
    title = figure.text(0.5, 1 - 0.2 * inch, case, ha="center", va="top", parse_math=False)
    title.set(color=_FOREGROUND, fontsize=16)
    entries = [
        Line2D([], [], color=_COLORS[index % len(_COLORS)], linewidth=3, label=f"{name}  {volume:.2f} mL")
        for index, (name, volume) in enumerate(volumes.items())
    ]
    legend = figure.legend(handles=entries, loc="lower center", bbox_to_anchor=(0.5, 0.35 * inch), ncols=_COLUMNS)
    legend.set(frame_on=False)
    for text in legend.get_texts():
        text.set(color=_FOREGROUND, fontsize=13)
    figure.text(0.5, 0.12 * inch, " · ".join(notes), color=_QUIET, fontsize=10, ha="center", va="bottom")
