import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from streetvision import imaging
from streetvision.data import summary
from streetvision.data.build import SourcePicture, build
from streetvision.data.manifest import Manifest


def test_markdown_counts_by_split_source_and_class(list_source: Callable[..., Any], tmp_path: Path) -> None:
    source = list_source()
    source.pictures.append(SourcePicture(data=b"x", label=0, group="g", generator="camera", origin="broken.jpg"))
    report = build(source, tmp_path / "out", seed=0)
    text = summary.markdown(Manifest.read(tmp_path / "out"), report)
    assert f"Data version `{report.version[:12]}`: 48 pictures" in text
    train = {label: report.counts["train", "real", label] for label in (0, 1)}
    assert f"| train | real | {train[1]} | {train[0]} | 100% |  |" in text
    assert f"| challenge | all | {report.counts['challenge', 'real', 1]} |" in text
    assert "- `broken.jpg`: 1 bytes are no JPEG, PNG or WebP picture" in text


def test_page_is_self_contained_and_escapes_file_names(list_source: Callable[..., Any], tmp_path: Path) -> None:
    source = list_source()
    source.pictures.append(SourcePicture(data=b"x", label=0, group="g", generator="camera", origin="<script>.jpg"))
    report = build(source, tmp_path / "out", seed=0)
    page = summary.page(Manifest.read(tmp_path / "out"), report)
    HTMLParser().feed(page)
    assert "<script>" not in page
    assert "http" not in page
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == 2
    assert len(page) < 400_000


def test_contact_sheet_shows_eight_in_a_row(list_source: Callable[..., Any], tmp_path: Path) -> None:
    build(list_source(), tmp_path / "out", seed=0)
    manifest = Manifest.read(tmp_path / "out")
    sheet = imaging.decode(summary.contact_sheet(manifest, manifest.pictures[:9]))
    assert sheet.shape == (192, 1024, 3)
    assert (sheet[96:, 136:] > 245).all()
    assert (sheet[8:88, 8:120] < 250).mean() > 0.5
