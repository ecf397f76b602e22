"""Images and their labels in a folder, as MONAI's datalists hold them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_pairs"]

_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))  # Medical Segmentation Decathlon first


def find_pairs(dataset_dir: str | Path, suffixes: tuple[str, str] | None = None) -> list[dict[str, str]]:
    """List the labeled volumes of a folder.

    Args:
        dataset_dir: a folder that holds ``imagesTr`` and ``labelsTr`` as the Medical Segmentation Decathlon does, or
            ``images`` and ``labels``, with files of the same names in both.
        suffixes: ends of the names of images and labels, such as ``("_ct", "_mask")``, where both lie in one folder.

    Returns:
        ``[{"image": path, "label": path}, ...]``, sorted by name.

    Raises:
        FileNotFoundError: where the folders are not there, or a label is missing for an image.
    """
    root = Path(dataset_dir)
    found = _in_folders(root) if suffixes is None else _by_suffixes(root, *suffixes)
    if not found:
        expected = "imagesTr/*.nii.gz and labelsTr/*.nii.gz, or images and labels"
        if suffixes is not None:
            expected = " and ".join(f"*{suffix}.nii.gz" for suffix in suffixes)
        raise FileNotFoundError(
            f"{root} holds no labeled volumes: expected {expected}; give the folder of the dataset as --dataset_dir."
        )
    missing = [label for _, label in found if not label.is_file()]
    if missing:
        names = ", ".join(label.name for label in missing)
        raise FileNotFoundError(f"{missing[0].parent} lacks {names}; every image needs its label.")
    return [{"image": str(image), "label": str(label)} for image, label in found]


def _in_folders(root: Path) -> list[tuple[Path, Path]]:
    for images, labels in _FOLDERS:
        found = sorted((root / images).glob("[!.]*.nii*"))
        if found:
            return [(image, root / labels / image.name) for image in found]
    return []


def _by_suffixes(root: Path, image: str, label: str) -> list[tuple[Path, Path]]:
    found = sorted(root.glob(f"[!.]*{image}.nii*"))
    return [(path, path.with_name(path.name.replace(f"{image}.nii", f"{label}.nii"))) for path in found]
