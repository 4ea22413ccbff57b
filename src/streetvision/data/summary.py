"""What a manifest holds, for people: tables and a contact sheet."""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from streetvision import imaging
from streetvision.data.build import BuildReport
from streetvision.data.manifest import SOURCES, SPLITS, Manifest, Picture

_COLUMNS = 8
_THUMBNAIL_PX = (128, 96)
_REJECTED_SHOWN = 20


def markdown(manifest: Manifest, report: BuildReport | None = None) -> str:
    """Markdown with the pictures by split, source and class, and what the build left out."""
    header, *rows = _table(manifest)
    lines = [f"Data version `{manifest.version[:12]}`: {len(manifest.pictures)} pictures", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if report is not None:
        lines += ["", _left_out(report), ""]
        lines += [f"- `{item.origin}`: {item.reason}" for item in report.rejected[:_REJECTED_SHOWN]]
        if len(report.rejected) > _REJECTED_SHOWN:
            lines.append(f"- and {len(report.rejected) - _REJECTED_SHOWN} more")
    return "\n".join(lines).rstrip() + "\n"


def page(manifest: Manifest, report: BuildReport | None = None, *, title: str = "Data") -> str:
    """One self-contained HTML page: the tables of `markdown`, and a contact sheet for each class."""
    header, *rows = _table(manifest)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Data version <code>{manifest.version[:12]}</code>, {len(manifest.pictures)} pictures</p>",
        "<table>" + _html_row(header, "th") + "".join(_html_row(row, "td") for row in rows) + "</table>",
    ]
    if report is not None:
        items = "".join(
            f"<li><code>{html.escape(item.origin)}</code>: {html.escape(item.reason)}</li>"
            for item in report.rejected[:_REJECTED_SHOWN]
        )
        parts.append(f"<p>{html.escape(_left_out(report))}</p><ul>{items}</ul>")
    for label, name in ((1, "Roadwork"), (0, "No roadwork")):
        pictures = _spread(manifest, label)
        if pictures:
            sheet = base64.b64encode(contact_sheet(manifest, pictures)).decode()
            parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/jpeg;base64,{sheet}">')
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse}th,td{padding:.25rem .9rem;border-bottom:1px solid #ddd;text-align:right}"
        "th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}img{max-width:100%}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style><body>{''.join(parts)}</body></html>\n"
    )


def rows(manifest: Manifest) -> list[dict[str, str | int]]:
    """The table of `markdown`, one mapping a row, keyed by its header; counts are numbers."""
    header, *body = _table(manifest)
    return [
        {name: int(cell) if cell.isdigit() else cell for name, cell in zip(header, row, strict=True)} for row in body
    ]


def figures(counts: Mapping[tuple[str, str, int], int]) -> dict[str, int]:
    """Counts by (split, source, label) under names that a pipeline's UI shows: `train_real_roadwork` ..."""
    named = {f"{split}_{source}_{('none', 'roadwork')[label]}": n for (split, source, label), n in counts.items()}
    return {"pictures": sum(counts.values()), **dict(sorted(named.items()))}


def contact_sheet(manifest: Manifest, pictures: Sequence[Picture]) -> bytes:
    """JPEG with a thumbnail of each picture, eight in a row."""
    width, height = _THUMBNAIL_PX
    sheet = np.full((-(-len(pictures) // _COLUMNS) * height, _COLUMNS * width, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, _COLUMNS)
        image = Image.fromarray(imaging.decode(manifest.read_bytes(picture), limit_px=imaging.DECODE_LIMIT_MAX_PX))
        image.thumbnail((width - 4, height - 4))
        top, left = row * height + (height - image.height) // 2, column * width + (width - image.width) // 2
        sheet[top : top + image.height, left : left + image.width] = np.asarray(image)
    return imaging.encode_jpeg(sheet, quality=85)


def _spread(manifest: Manifest, label: int) -> list[Picture]:
    """Two rows of pictures of one class, every source in turn."""
    pools = [manifest.select(source=source, label=label) for source in SOURCES]
    wanted = 2 * _COLUMNS
    turns = [pool[turn] for turn in range(wanted) for pool in pools if turn < len(pool)]
    return turns[:wanted]


def _table(manifest: Manifest) -> list[list[str]]:
    counts = Counter((picture.split, picture.source, picture.label) for picture in manifest.pictures)
    groups = Counter(split for split, _ in {(picture.split, picture.group) for picture in manifest.pictures})
    rows = [["split", "source", "roadwork", "no roadwork", "share", "groups"]]
    for split in SPLITS:
        total = sum(count for (name, _, _), count in counts.items() if name == split)
        for source in SOURCES:
            roadwork, none = counts[split, source, 1], counts[split, source, 0]
            if roadwork + none:
                rows.append([split, source, str(roadwork), str(none), f"{(roadwork + none) / total:.0%}", ""])
        rows.append([split, "all", *(str(_of(counts, split, label)) for label in (1, 0)), "", str(groups[split])])
    return rows


def _of(counts: Counter[tuple[str, str, int]], split: str, label: int) -> int:
    return sum(counts[split, source, label] for source in SOURCES)


def _left_out(report: BuildReport) -> str:
    return (
        f"Left out {report.duplicates} exact duplicates and {len(report.rejected)} unusable pictures; "
        f"{report.near_duplicates} groups joined another because of near-duplicates"
    )


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
