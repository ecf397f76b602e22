"""Images and their labels in a folder, as MONAI's datalists hold them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_pairs"]

_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))  # Medical Segmentation Decathlon first


def find_pairs(dataset_dir: str | Path) -> list[dict[str, str]]:
    """List the labeled volumes of a folder.

    Args:
        dataset_dir: a folder that holds ``imagesTr`` and ``labelsTr`` as the Medical Segmentation Decathlon does, or
            ``images`` and ``labels``, with files of the same names in both.

    Returns:
        ``[{"image": path, "label": path}, ...]``, sorted by name.

    Raises:
        FileNotFoundError: where the folders are not there, or a label is missing for an image.
    """
    root = Path(dataset_dir)
    found = [(sorted((root / images).glob("[!.]*.nii*")), root / labels) for images, labels in _FOLDERS]
    images, label_dir = next((pair for pair in found if pair[0]), ([], root))
    if not images:
        raise FileNotFoundError(
            f"{root} holds no labeled volumes: expected imagesTr/*.nii.gz and labelsTr/*.nii.gz, or images and labels; "
            "give the folder of the dataset as --dataset_dir."
        )
    missing = [image.name for image in images if not (label_dir / image.name).is_file()]
    if missing:
        raise FileNotFoundError(f"{label_dir} lacks {', '.join(missing)}; every image needs its label.")
    return [{"image": str(image), "label": str(label_dir / image.name)} for image in images]
