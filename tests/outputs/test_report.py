from __future__ import annotations

import json
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from monai_crossd.data import VolumeError
from monai_crossd.outputs import write_report


class Page(HTMLParser):
    """Text and links of a page; every tag that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.text, self.links, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [unquote(value) for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def row(case):
    return {"case": case, "file": f"/data/{case}.nii.gz", "volumes_ml": {"a & b": 1.25, "c": 2.0}, "total_ml": 3.25}


def test_table_pictures_and_refused(tmp_path):
    cases = ["é p/<1> #2", "plain"]
    (tmp_path / "volumes.json").write_text(json.dumps([row(case) for case in cases]), encoding="utf-8")
    for case in cases:
        (tmp_path / f"{case}_seg.nii.gz").parent.mkdir(exist_ok=True)
        (tmp_path / f"{case}_seg.nii.gz").touch()
    (tmp_path / f"{cases[0]}_preview.png").touch()
    file = write_report(tmp_path, [VolumeError("/in/<bad>.nii", "must be & is not.")], "Title <x>")
    page = Page(file.read_text(encoding="utf-8"))
    text = " ".join("".join(page.text).split())
    for part in ("Title <x>", "Not for diagnostic use", "2 of 3 inputs segmented. 1 refused.", "a & b [mL]", "3.25"):
        assert part in text
    assert "/in/<bad>.nii must be & is not." in text and "plain: no picture." in text
    assert len(page.links) == 3 and all((tmp_path / link).is_file() for link in page.links)


def test_nothing_refused(tmp_path):
    (tmp_path / "volumes.json").write_text("[]")
    assert "Refused" not in write_report(tmp_path).read_text()


def test_some_are_still_to_come(tmp_path):
    (tmp_path / "volumes.json").write_text(json.dumps([row("a")]))
    assert (
        "1 of 4 inputs segmented. 1 refused. 2 to come."
        in write_report(tmp_path, [VolumeError("b", "is bad.")], waiting=2).read_text()
    )


def test_without_volumes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"volumes\.json does not exist; call `write_volumes`"):
        write_report(tmp_path)
