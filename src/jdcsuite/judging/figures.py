"""Curves -> the rate-distortion figure; crops of pictures -> a strip."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

DEMO = "A demo budget shows the machinery and claims no quality."
# Okabe and Ito's palette without its yellow, which is faint on white
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*<>"


def noise_level(sigma: float) -> str:
    """A sigma in grey levels in words; NaN: noise that was in the pictures."""
    return "noise of its own" if np.isnan(sigma) else f"sigma {sigma:g}"


def figure(curves: pd.DataFrame, path: Path) -> Figure:
    """PSNR (MS-SSIM below) over bpp, a panel for each dataset and noise: learned solid, standards dashed."""
    panels = list(curves.groupby(["dataset", "sigma"], dropna=False, sort=False))
    metrics = ["psnr", "ms_ssim"] if curves["ms_ssim"].notna().any() else ["psnr"]
    learned_first = curves.sort_values("lmbda", na_position="last", kind="stable")
    styles = {
        label: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, label in enumerate(learned_first["label"].unique())
    }
    across, deep = min(4, len(panels)), ceil(len(panels) / 4) * len(metrics)
    entries_across = 3 * min(2, across)
    height = 3.4 * deep + 0.9 + 0.23 * ceil((len(styles) + 1) / entries_across)
    fig = Figure(figsize=(max(7.0, 4.6 * across), height), layout="constrained")
    grid = fig.subplots(deep, across, squeeze=False)
    entries = {}
    for i, ((dataset, sigma), panel) in enumerate(panels):
        for j, metric in enumerate(metrics):
            ax = grid[i // 4 * len(metrics) + j, i % 4]
            _panel(ax, panel, metric, styles)
            handles, labels = ax.get_legend_handles_labels()
            entries.update(zip(labels, handles, strict=True))
        protocol = ", ".join(p for p in panel["noise_protocol"].unique() if p)
        images = "-".join(map(str, np.unique([panel["images"].min(), panel["images"].max()])))
        head = f"{dataset}, {noise_level(sigma)} {protocol}".strip()
        noisy = f"noisy input {panel['psnr_noisy'].mean():.2f} dB"
        grid[i // 4 * len(metrics), i % 4].set_title(f"{head}\n{images} images, {noisy}", loc="left")
    for ax in grid.flat:
        ax.set_visible(ax.has_data())
    budgets = ", ".join(sorted({budget for budget in curves["budget"] if budget}))
    title = "Rate and distortion against the clean picture" + (f", budget {budgets}" if budgets else "")
    fig.suptitle(title + (f"\n{DEMO}" if (curves["budget"] == "demo").any() else ""), fontweight="bold")
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=entries_across, frameon=False)
    fig.savefig(path, dpi=130)
    return fig


def _panel(ax: Axes, panel: pd.DataFrame, metric: str, styles: dict[str, dict[str, str]]) -> None:
    """Draw one dataset's curves with limits that show the learned ones, wherever a lossless codec lies."""
    ax.set(xlabel="rate in bpp (whole file)", ylabel={"psnr": "PSNR in dB", "ms_ssim": "MS-SSIM"}[metric])
    ax.grid(alpha=0.25)
    points = panel[np.isfinite(panel[metric])]
    for label, curve in points.groupby("label", sort=False):
        style = styles[label]
        if curve["bpp"].isna().all():  # an uncoded denoiser
            ax.axhline(curve[metric].mean(), color=style["color"], linestyle="-.", label=f"{label} (uncoded)")
        else:
            dashes = "-" if curve["lmbda"].notna().all() else "--"
            ax.plot(curve["bpp"], curve[metric], linestyle=dashes, label=label, markersize=5, **style)
    noisy = panel[f"{metric}_noisy"].mean()
    if len(points) and np.isfinite(noisy):
        ax.axhline(noisy, color="0.45", linestyle=":", label="noisy input")
    coded = points.dropna(subset=["bpp"])
    if coded.empty:
        return
    # a single point, such as a lossless codec, does not set the range; every line shows its cheapest point
    lines = coded[coded.groupby("label")["bpp"].transform("size") > 1]
    learned = coded.loc[coded["lmbda"].notna(), "bpp"].max()
    far = [1.5 * learned if learned > 0 else 1.05 * lines["bpp"].max()]
    right = np.nanmax([*far, 1.2 * lines.groupby("label")["bpp"].min().max(), 0.0]) or 1.1 * coded["bpp"].max()
    beyond = coded.groupby("label", sort=False)["bpp"].min().loc[lambda bpp: bpp > right]
    text = "\n".join(f"{label}: {bpp:.2f} bpp →" for label, bpp in beyond.items())
    ax.text(0.985, 0.02, text, ha="right", va="bottom", fontsize="small", color="0.35", transform=ax.transAxes)
    seen = [*points.loc[points["bpp"].fillna(0) <= right, metric], *([noisy] if np.isfinite(noisy) else [])]
    margin = 0.07 * np.ptp(seen) or 0.01 * abs(seen[0])
    ax.set(xlim=(0, right), ylim=(min(seen) - (1 + len(beyond)) * margin, max(seen) + margin))


def strip(pictures: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """The same crop of pictures (uint8, h w 3) side by side at a whole zoom, captions of two lines above.

    The crop is the middle 192 pixels a side, or all of a smaller picture; a zoom of 2 or more shows noise.
    """
    height, width = pictures[0][1].shape[:2]
    if any(image.shape != (height, width, 3) or image.dtype != np.uint8 for _, image in pictures):
        raise ValueError("a strip takes uint8 RGB pictures of one size")
    h, w = min(height, 192), min(width, 192)
    top, left = (height - h) // 2, (width - w) // 2
    zoom = max(1, 384 // max(h, w))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 15)
    gap, head = 8, 48
    cell = max(zoom * w, *(ceil(font.getlength(line)) for label, _ in pictures for line in label.split("\n")))
    sheet = Image.new("RGB", (gap + len(pictures) * (cell + gap), head + zoom * h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(pictures):
        x = gap + i * (cell + gap)
        crop = image[top : top + h, left : left + w].repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet.paste(Image.fromarray(crop), (x, head))
        pen.text((x, head - 6), label, fill="black", font=font, anchor="ld")
    sheet.save(path)
