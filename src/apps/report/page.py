"""The page of a run's report: sections of text, tables and pictures in, one self-contained HTML file out.

Everything that is written is escaped. The page asks for nothing from anywhere and its policy forbids it; what it says
needs no script: the one there sorts a table when a heading is clicked.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, StrictUndefined

from src.apps.report.plots import Picture


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows of text. texts: columns of words, the others hold numbers. marked: rows to be seen first.

    foot: rows that stay below when the table is sorted. is_long: it scrolls in a place of its own.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: frozenset[int] = frozenset()
    caption: str = ""
    marked: frozenset[int] = frozenset()
    foot: Sequence[Sequence[str]] = ()
    is_long: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page. missing: what it could not show, and what to do about it. folded: shut until clicked."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    command: str = ""
    missing: str = ""
    folded: Sequence[tuple[str, Table]] = ()

    @property
    def anchor(self) -> str:
        """The section's place in the page's address."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """What the page says: the run, its figures, its sections."""

    competition: str
    experiment: str
    run_id: str
    state: str
    lead: str = ""
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


SCRIPT = """
const units = {k: 1e3, M: 1e6, min: 60, h: 3600, d: 86400};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const number = text => parseFloat(text.replace(/[,\\u202f]/g, "")) * (units[text.trim().split(" ")[1]] ?? 1);
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.onclick = () => {
      const down = heading.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const words = heading.classList.contains("text");
      const key = row => words ? row.cells[column].textContent : number(row.cells[column].textContent);
      [...body.rows].map(row => [key(row), row]).sort(([a], [b]) =>
        words ? sign * a.localeCompare(b) : isNaN(a) - isNaN(b) || sign * (a - b) || 0
      ).forEach(([, row]) => body.append(row));
    };
  });
}
"""

STYLE = """
:root { color-scheme: light dark; --bg: #f4f6f8; --card: #ffffff; --ink: #1c2733; --muted: #5d6b7a; --grid: #dfe4ea;
  --blue: #1f6fb4; --orange: #d2601a; --mark: #e8f1fa; --warn: #fdf1e4; }
@media (prefers-color-scheme: dark) { :root { --bg: #11161c; --card: #1a2129; --ink: #e7ecf1; --muted: #9eabb8;
  --grid: #313c47; --blue: #6db5f2; --orange: #f39a5b; --mark: #20364b; --warn: #38291b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 30px; line-height: 1.15; margin: 2px 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 6px; }
p { margin: 4px 0 12px; max-width: 75ch; }
.over { color: var(--blue); font-weight: 600; margin: 0; }
.muted, caption, figcaption { color: var(--muted); }
code, .code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.code { background: var(--bg); border: 1px solid var(--grid); border-radius: 6px; padding: 8px 12px; margin: 4px 0 12px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 18px 0 6px; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 10px; margin: 18px 0; }
.tile, section { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 23px; line-height: 1.25; letter-spacing: -0.01em; }
.tile span { display: block; color: var(--muted); font-size: 13px; }
.tile:first-child { border-color: var(--blue); } .tile:first-child b { color: var(--blue); }
section { padding: 18px 20px; margin: 14px 0; scroll-margin-top: 10px; }
.missing { background: var(--warn); border-radius: 6px; padding: 8px 12px; margin: 4px 0; max-width: none; }
.row, .side { display: grid; gap: 8px 28px; align-items: start; }
.row { grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.side { grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.row > .scroll, .side > :last-child:nth-child(odd) { grid-column: 1 / -1; }
figure, .scroll { min-width: 0; } figure { margin: 0; }
.picture { display: block; width: 100%; height: auto; margin: 0 auto; }
.picture text { font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif !important; }
#picture-confusion image { image-rendering: pixelated; }
.scroll { overflow-x: auto; margin: 6px 0; } .long { max-height: 460px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 4px 0 6px; font-size: 13.5px; }
th, td { text-align: right; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { color: var(--muted); font-weight: 600; white-space: nowrap; } .text { text-align: left; }
td.text { max-width: 46ch; overflow-wrap: break-word; } td:not(.text) { white-space: nowrap; }
tr.marked td { background: var(--mark); } tfoot td { color: var(--muted); }
.long thead, .long tfoot { position: sticky; top: 0; bottom: 0; background: var(--card); }
.long tfoot { box-shadow: 0 -1px 0 var(--grid); } tfoot td { border: 0; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--blue); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
summary { cursor: pointer; color: var(--blue); margin: 6px 0; }
@media (max-width: 560px) { main { padding: 16px 10px 40px; } section { padding: 14px 12px; } h1 { font-size: 24px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 20px; } }
@media print { .long { max-height: none; overflow: visible; } nav { display: none; } section { break-inside: avoid; } }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{{ script_hash }}'">
<title>{{ page.run_id }}: report</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
{%- macro table_of(table) %}
<div class="scroll{{ ' long' if table.is_long }}"><table>
{%- if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for heading in table.headings %}\
<th scope="col"{% if loop.index0 in table.texts %} class="text"{% endif %}>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}
<tr{% if loop.index0 in table.marked %} class="marked"{% endif %}>{% for cell in row %}\
<td{% if loop.index0 in table.texts %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody>
{%- if table.foot %}
<tfoot>{% for row in table.foot %}
<tr>{% for cell in row %}<td{% if loop.index0 in table.texts %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}</tfoot>{% endif %}
</table></div>
{%- endmacro %}
<header>
<p class="over">{{ page.competition }}</p>
<h1>{{ page.experiment }}</h1>
<p class="muted"><code>{{ page.run_id }}</code> · {{ page.state }}</p>
{% if page.lead %}<p>{{ page.lead }}</p>{% endif %}
</header>
<div class="tiles">{% for tile in page.tiles %}
<div class="tile"><span>{{ tile.label }}</span><b>{{ tile.value }}</b><span>{{ tile.note }}</span></div>{% endfor %}
</div>
<nav>{% for section in page.sections %}<a href="#{{ section.anchor }}">{{ section.title }}</a> {% endfor %}</nav>
{% for section in page.sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% if section.text %}<p class="muted">{{ section.text }}</p>{% endif %}
{% if section.command %}<div class="code">{{ section.command }}</div>{% endif %}
{% if section.missing %}<p class="missing">{{ section.missing }}</p>{% endif %}
<div class="{{ 'row' if section.pictures | length > 2 else 'side' }}">{% for picture in section.pictures %}
<figure>{{ picture.svg | safe }}</figure>{% endfor %}
{%- for table in section.tables %}{{ table_of(table) }}{% endfor %}
</div>
{% for title, table in section.folded %}<details><summary>{{ title }}</summary>{{ table_of(table) }}</details>
{% endfor -%}
</section>
{% endfor %}
</main>
<script>{{ script | safe }}</script>
</body>
</html>
"""


def render(page: Page) -> str:
    """Return the page as HTML."""
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(TEMPLATE)
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return template.render(page=page, style=STYLE, script=SCRIPT, script_hash=script_hash)
