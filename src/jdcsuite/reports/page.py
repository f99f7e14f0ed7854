"""Sections of a report -> one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from jdcsuite.imaging import atomic
from jdcsuite.reports import crops
from jdcsuite.reports.interactive import script
from jdcsuite.reports.provenance import Curve
from jdcsuite.reports.tables import Table

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Chart:
    """``html``: the interactive chart. ``svg``: the file of the same figure, for print and without scripts. ``alt``:
    what it shows, for those who do not see it."""

    title: str
    html: str
    svg: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out."""

    id: str
    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    crops: Sequence[tuple[str, np.ndarray]] = ()
    curves: Sequence[Curve] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.charts or self.tables or self.crops or self.curves)


def write(path: Path, *, title: str, notes: Sequence[str], sections: Sequence[Section], command: str) -> None:
    """Write the page. Names from results are escaped, and the page's own policy forbids any request.

    ``notes``: sentences at the top. ``command``: what makes the page again.
    """
    environment = Environment(
        loader=PackageLoader("jdcsuite.reports", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filled = list(filter(None, sections))
    interactive = any(chart.html for section in filled for chart in section.charts)
    text = environment.get_template(TEMPLATE).render(
        title=title, notes=notes, sections=filled, command=command, script=Markup(script()) if interactive else "",
        svg=_svg, png=_png, crop=crops.crop, error_map=crops.error_map, full_error=crops.FULL_ERROR, Markup=Markup,
    )  # fmt: skip
    atomic.write(path, text.encode(errors="replace"))  # file names may be no UTF-8


def _svg(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
