# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One page that stands for itself: no script, nothing from elsewhere, light and dark, for screen and paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .markup import Child, Markup, join, tag

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--tint:#f3f5f7;
--good:#116329;--bad:#b3261e;--c0:#0b5cad;--c1:#b35900;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#57606a}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6eaee;--soft:#9aa5b1;--line:#3a424b;--tint:#1d232a;
--good:#56d364;--bad:#ff8a80;--c0:#6cb6ff;--c1:#f0a04b;--c2:#57d37a;--c3:#c297ff;--c4:#ff8cc6;--c5:#a3adb8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.2rem;margin:2.25rem 0 .5rem}
h3{font-size:1rem;margin:1.25rem 0 .25rem}
p{margin:.5rem 0}
.soft,caption,figcaption{color:var(--soft)}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.note{border-left:.25rem solid var(--line);background:var(--tint);padding:.5rem .75rem;margin:.75rem 0}
.note.fault{border-color:var(--bad)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1.25rem 0;padding:0}
.facts div{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .75rem}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{margin:0;font-size:1.25rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem;margin:.5rem 0}
caption{text-align:left;padding:.25rem 0}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600}
td.n,th.n{text-align:right;white-space:nowrap}
tfoot td,tfoot th{border-top:2px solid var(--line);border-bottom:0;font-weight:600}
figure{margin:.75rem 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem}
svg{display:block;width:100%;height:auto;max-width:100%}
svg text{fill:var(--ink);font:13px system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg text.axis{fill:var(--soft);font-size:12px}
svg .grid{stroke:var(--line);stroke-width:1}
svg .bar{stroke:none}
svg .line{fill:none;stroke-width:2}
svg .area{opacity:.18;stroke:none}
.c0{fill:var(--c0);stroke:var(--c0)}.c1{fill:var(--c1);stroke:var(--c1)}.c2{fill:var(--c2);stroke:var(--c2)}
.c3{fill:var(--c3);stroke:var(--c3)}.c4{fill:var(--c4);stroke:var(--c4)}.c5{fill:var(--c5);stroke:var(--c5)}
.sign{width:.7rem;height:.7rem;display:inline-block}
.spark{width:7rem;height:1.6rem;display:inline-block}
details{border-top:1px solid var(--line);padding:.4rem 0}
summary{cursor:pointer;font-weight:600}
footer{margin-top:2.5rem;font-size:.85rem}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--soft:#444;--line:#bbb;--tint:#f6f6f6;--good:#116329;--bad:#b3261e;
--c0:#0b5cad;--c1:#b35900;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#57606a}
body{font-size:10pt}main{max-width:none;padding:0}.scroll{overflow:visible}table{font-size:.8rem}
th,td{padding:.25rem .4rem}td.n,th.n{white-space:normal}.spark{width:4rem}
figure,tr,.facts div{break-inside:avoid}h2,h3{break-after:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    number: bool = False


def page(title: str, *sections: Child, made: str) -> str:
    """Return a whole document named TITLE. MADE tells what made it and when."""
    head = join(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    body = tag("main", *sections, tag("footer", made, class_="soft"))
    return f"<!DOCTYPE html>\n<html lang=\"en\"><head>{head}</head>\n<body>{body}</body></html>\n"


def section(title: str, *children: Child) -> Markup:
    """Return a part of the page with its heading."""
    return tag("section", tag("h2", title), *children)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return the figures that matter most, by name."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Child]], last: Sequence[Child] = ()) -> Markup:
    """Return a table whose rows begin with their names; LAST is a row that sums up."""
    head = tag("tr", *(tag("th", column.name, scope="col", class_=_class(column)) for column in columns))
    body = [tag("tr", *_cells(columns, row)) for row in rows]
    foot = tag("tfoot", tag("tr", *_cells(columns, last))) if last else None
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), foot)
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex=0)


def note(*children: Child, fault: bool = False) -> Markup:
    """Return a remark that is set apart, as one on a FAULT where it is."""
    return tag("div", *children, class_="note fault" if fault else "note", role="note")


def _cells(columns: Sequence[Column], row: Sequence[Child]) -> list[Markup]:
    first, *others = zip(columns, row)
    return [
        tag("th", first[1], scope="row", class_=_class(first[0])),
        *(tag("td", value, class_=_class(column)) for column, value in others),
    ]


def _class(column: Column) -> str | None:
    return "n" if column.number else None
