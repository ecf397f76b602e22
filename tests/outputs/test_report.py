from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote

from monai_crossd.data import VolumeError
from monai_crossd.outputs import write_report


class Page(HTMLParser):
    """Text, links and rows of tables of a page; every tag that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.text, self.links, self.open, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [unquote(value) for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def row(case):
    return {"case": case, "file": f"/data/{case}.nii.gz", "volumes_ml": {"a & b": 1.25, "c": 2.0}}


def classified(case, sure=0.75):
    probabilities = {"<benign>": 1 - sure, "malignant, sure": sure}
    found = {"probabilities": probabilities, "predicted_class": "malignant, sure", "series_uid": "1.2"}
    return {"case": case, "classification": found | {"model_name": "net & co", "model_version": "1.2"}}


def text_of(page: Page) -> str:
    return " ".join("".join(page.text).split())


def test_table_pictures_and_refused(tmp_path):
    cases = ["é p/<1> #2", "plain"]
    for case in cases:
        (tmp_path / f"{case}_seg.nii.gz").parent.mkdir(exist_ok=True)
        (tmp_path / f"{case}_seg.nii.gz").touch()
    (tmp_path / f"{cases[0]}_preview.png").touch()
    file = write_report(
        tmp_path, list(map(row, cases)), [VolumeError("/in/<bad>.nii", "must be & is not.")], "Title <x>"
    )
    page = Page(file.read_text(encoding="utf-8"))
    text = text_of(page)
    for part in ("Title <x>", "Not for diagnostic use", "2 of 3 inputs done. 1 refused.", "a & b [mL]", "3.25"):
        assert part in text
    assert "/in/<bad>.nii must be & is not." in text and "plain: no picture." in text
    assert "Model" not in text and "probability" not in text
    assert len(page.links) == 3 and all((tmp_path / link).is_file() for link in page.links)


def test_classes_alone(tmp_path):
    """Class and probabilities, without columns of volumes and without pictures; nothing to link to."""
    page = Page(write_report(tmp_path, [classified("a"), classified("b", 0.8)]).read_text())
    text = text_of(page)
    assert "Model: net & co 1.2" in text and "Not for diagnostic use" in text
    assert "<benign> [probability]" in text and "[mL]" not in text and "icture" not in text and not page.links
    assert page.rows == [
        ["case", "predicted class", "<benign> [probability]", "malignant, sure [probability]"],
        ["a", "malignant, sure", "0.250", "0.750"],
        ["b", "malignant, sure", "0.200", "0.800"],
    ]


def test_classes_and_volumes_in_one_table(tmp_path):
    page = Page(write_report(tmp_path, [row("a") | classified("a")]).read_text())
    assert page.rows[0][3:] == ["malignant, sure [probability]", "a & b [mL]", "c [mL]", "total [mL]"]
    assert page.rows[1][1:] == ["malignant, sure", "0.250", "0.750", "1.25", "2.00", "3.25"]


def test_a_structure_of_any_name_has_its_column(tmp_path):
    page = Page(write_report(tmp_path, [{"case": "a", "volumes_ml": {"total": 1.0, "rest": 2.0}}]).read_text())
    assert page.rows == [["case", "total [mL]", "rest [mL]", "total [mL]"], ["a", "1.00", "2.00", "3.00"]]


def test_cases_without_numbers(tmp_path):
    page = Page(write_report(tmp_path / "new", [{"case": "a"}]).read_text())
    assert page.rows == [["case"], ["a"]] and "1 of 1 inputs done." in text_of(page)


def test_nothing_refused(tmp_path):
    text = write_report(tmp_path, []).read_text()
    assert "Refused" not in text and "<h2>" not in text


def test_some_are_still_to_come(tmp_path):
    text = write_report(tmp_path, [row("a")], [VolumeError("b", "is bad.")], waiting=2).read_text()
    assert "1 of 4 inputs done. 1 refused. 2 to come." in text
