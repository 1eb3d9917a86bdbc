"""A small document of headings, paragraphs, tables and pictures, as Markdown and as one HTML file.

The HTML needs nothing beside itself: the style is in it, and the pictures are.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from loadtest.compare.marks import DPI
from loadtest.compare.tables import TableCell

_SCALE = 96 / DPI  # pixels of a page over those of a picture, so that all have one size of letters

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: #fff;
  color: #222; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: 1.1rem;
  border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 52rem; margin: .5rem 0; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { border-bottom: 1.5px solid #888; vertical-align: bottom; font-weight: 600;
  white-space: normal; min-width: 4rem; max-width: 9rem; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tbody tr { border-bottom: 1px solid #eee; }
td.best { font-weight: 700; background: #eef5ee; }
small { display: block; color: #777; font-size: 11px; font-weight: 400; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
pre { background: #f6f6f4; padding: .8rem 1rem; overflow-x: auto; font-size: 12px;
  line-height: 1.4; }
ul { margin: .4rem 0; padding-left: 1.3rem; }
"""


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list of short statements."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    heads: Sequence[str]
    lines: Sequence[Sequence[TableCell]]


@dataclass(frozen=True, slots=True)
class Picture:
    path: Path
    text: str  # for those who cannot see it


@dataclass(frozen=True, slots=True)
class Code:
    text: str


Block = Heading | Paragraph | Points | Table | Picture | Code


def as_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Pictures are linked, relative to ``folder``."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def as_html(blocks: Sequence[Block], title: str) -> str:
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Points(texts):
            return "\n".join(f"- {text}" for text in texts)
        case Table(heads, lines):
            rule = "|".join([" --- ", *(" ---: " for _ in heads[1:])])
            rows = [_bar(heads), f"|{rule}|", *(_bar(map(_cell, line)) for line in lines)]
            return "\n".join(rows)
        case Picture(path, text):
            return f"![{text}]({path.relative_to(folder).as_posix()})"
        case Code(text):
            return f"```\n{text}\n```"


def _bar(texts: "Sequence[str] | map[str]") -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _cell(cell: TableCell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} ({', '.join(cell.small)})" if cell.small else text


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Points(texts):
            return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
        case Table(heads, lines):
            head = "".join(f"<th>{escape(text)}</th>" for text in heads)
            body = "\n".join("<tr>" + "".join(map(_html_cell, line)) + "</tr>" for line in lines)
            return (
                f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
                f"<tbody>\n{body}\n</tbody></table></div>"
            )
        case Picture(path, text):
            data = path.read_bytes()
            width = round(int.from_bytes(data[16:20]) * _SCALE)  # where PNG has it
            source = f"data:image/png;base64,{b64encode(data).decode()}"
            return f'<img alt="{escape(text)}" width="{width}" src="{source}">'
        case Code(text):
            return f"<pre>{escape(text)}</pre>"


def _html_cell(cell: TableCell) -> str:
    small = "".join(f"<small>{escape(text)}</small>" for text in cell.small)
    mark = ' class="best"' if cell.best else ""
    return f"<td{mark}>{escape(cell.text)}{small}</td>"
