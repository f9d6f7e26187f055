"""A page that is written as Markdown and as HTML from the same blocks."""
import base64
import html
import re
from pathlib import Path

from system import files

PAGES = ("report.md", "report.html")
FIGURE = re.compile(r"[-+≈\d].{,24}")  # a cell that is not broken, and stands to the right
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    ".words{text-align:left;white-space:normal}"
    "thead th{border-bottom:2px solid #888;white-space:normal;vertical-align:bottom;"
    "max-width:8rem}"
    "h1,h2,h3{line-height:1.2;margin-top:2rem}"
    "pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}"
    ".wide{overflow-x:auto}"
    ".pictures img{max-width:32%;min-width:18rem;vertical-align:top;margin:.3rem}"
    ".pictures img:only-child{max-width:100%}"
)


def plural(number: int, thing: str) -> str:
    """"1 run", "2 runs"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class Document:
    """Blocks written once, as Markdown and as HTML."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.markdown = []
        self.html = []

    def heading(self, text: str, level: int = 2) -> None:
        self.markdown.append(f"{'#' * level} {text}")
        self.html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        self.markdown.append(f"```bash\n{text}\n```")
        self.html.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        lines = []
        for line in (head, ["---"] * len(head), *rows):
            cells = " | ".join(cell.replace("|", "\\|") for cell in line)
            lines.append(f"| {cells} |")
        self.markdown.append("\n".join(lines))
        look = []  # of each column
        for column in range(len(head)):
            figures = all(FIGURE.fullmatch(row[column]) for row in rows)
            look.append("" if figures else " class=words")

        def written(line: list[str], tag: str) -> str:
            cells = "".join(f"<{tag}{of_column}>{html.escape(cell)}</{tag}>"
                            for cell, of_column in zip(line, look))
            return f"<tr>{cells}</tr>\n"

        body = "".join(written(row, "td") for row in rows)
        self.html.append(f"<div class=wide><table><thead>{written(head, 'th')}</thead>\n"
                         f"<tbody>{body}</tbody></table></div>")

    def pictures(self, paths: list[Path]) -> None:
        paths = [path for path in paths if path.exists()]
        for path in paths:
            place = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
            self.markdown.append(f"![{path.stem}]({place})")
        images = ""
        for path in paths:
            content = base64.b64encode(path.read_bytes()).decode()
            images += f'<img alt="{path.stem}" src="data:image/png;base64,{content}">'
        self.html.append(f"<div class=pictures>{images}</div>")

    def write(self) -> list[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        body = "\n".join(self.html)
        page = ("<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
                "<meta name=viewport content='width=device-width'>"
                f"<title>PackNet in Jittor: report</title><style>{STYLE}</style></head><body>\n"
                f"{body}\n</body></html>\n")
        paths = [self.folder / name for name in PAGES]
        files.write(paths[0], ("\n\n".join(self.markdown) + "\n").encode())
        files.write(paths[1], page.encode())
        return paths
