"""Points of curves -> the rate-distortion figure; images -> a strip of crops side by side."""

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

from jdcsuite.artifacts.folder import picture_stem
from jdcsuite.imaging import atomic
from jdcsuite.judging.results import DEMO, noise_label, rung_label

# The palette of Okabe and Ito without its yellow, which is hard to see on white
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*<>"


def figure(curves: pd.DataFrame, path: Path) -> Figure:
    """PSNR (and MS-SSIM below) over bpp, a panel for each dataset and noise level; learned codecs have solid lines,
    standard ones dashed lines. ``curves``: `results.curves`."""
    panels = list(curves.groupby(["dataset", "sigma"], dropna=False, sort=False))
    metrics = ["psnr", "ms_ssim"] if curves["ms_ssim"].notna().any() else ["psnr"]
    learned_first = curves.sort_values("lmbda", na_position="last", kind="stable")
    styles = {
        label: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, label in enumerate(learned_first["label"].unique())
    }
    columns, rows = min(4, len(panels)), ceil(len(panels) / 4) * len(metrics)
    legend_columns = 3 * min(2, columns)
    height = 3.4 * rows + 0.9 + 0.23 * ceil((len(styles) + 1) / legend_columns)
    fig = Figure(figsize=(max(7.0, 4.6 * columns), height), layout="constrained")
    grid = fig.subplots(rows, columns, squeeze=False)
    entries = {}
    for i, ((dataset, sigma), panel) in enumerate(panels):
        for j, metric in enumerate(metrics):
            ax = grid[i // 4 * len(metrics) + j, i % 4]
            _panel(ax, panel, metric, styles)
            handles, labels = ax.get_legend_handles_labels()
            entries.update(zip(labels, handles, strict=True))
        title = ", ".join([str(dataset), noise_label(sigma), *(p for p in panel["noise_protocol"].unique() if p)])
        images = "-".join(map(str, np.unique([panel["images"].min(), panel["images"].max()])))
        psnr = panel["psnr_noisy"].mean()
        noisy = f"noisy input {psnr:.2f} dB" if np.isfinite(psnr) else "no noise"
        grid[i // 4 * len(metrics), i % 4].set_title(f"{title}\n{images} images, {noisy}", loc="left")
    for ax in grid.flat:
        ax.set_visible(ax.has_data())
    budgets = ", ".join(sorted({budget for budget in curves["budget"] if budget}))
    title = "Rate and distortion against the clean image" + (f", budget {budgets}" if budgets else "")
    fig.suptitle(title + (f"\n{DEMO}" if (curves["budget"] == "demo").any() else ""), fontweight="bold")
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=legend_columns, frameon=False)
    with atomic.replacing(path) as part:
        fig.savefig(part, dpi=130, format="png")
    return fig


def _panel(ax: Axes, panel: pd.DataFrame, metric: str, styles: dict[str, dict[str, str]]) -> None:
    """Draw the curves of one dataset; the limits of the axes are set by the learned curves, not by lossless codecs."""
    ax.set(xlabel="rate in bpp (whole file)", ylabel={"psnr": "PSNR in dB", "ms_ssim": "MS-SSIM"}[metric])
    ax.grid(alpha=0.25)
    points = panel[np.isfinite(panel[metric])]
    for label, curve in points.groupby("label", sort=False):
        style = styles[label]
        if curve["bpp"].isna().all():  # a denoiser without a codec
            ax.axhline(curve[metric].mean(), color=style["color"], linestyle="-.", label=f"{label} (uncoded)")
        else:
            line = "-" if curve["lmbda"].notna().all() else "--"
            ax.plot(curve["bpp"], curve[metric], linestyle=line, label=label, markersize=5, **style)
    noisy = panel[f"{metric}_noisy"].mean()
    if len(points) and np.isfinite(noisy):
        ax.axhline(noisy, color="0.45", linestyle=":", label="noisy input")
    coded = points.dropna(subset=["bpp"])
    if coded.empty:
        return
    # Single points (lossless codecs) do not extend the axis; every line shows at least its point of lowest rate.
    lines = coded[coded.groupby("label")["bpp"].transform("size") > 1]
    learned = coded.loc[coded["lmbda"].notna(), "bpp"].max()
    of_lines = 1.5 * learned if learned > 0 else 1.05 * lines["bpp"].max()
    right = np.nanmax([of_lines, 1.2 * lines.groupby("label")["bpp"].min().max(), 0.0]) or 1.1 * coded["bpp"].max()
    beyond = coded.groupby("label", sort=False)["bpp"].min().loc[lambda bpp: bpp > right]
    text = "\n".join(f"{label}: {bpp:.2f} bpp →" for label, bpp in beyond.items())
    ax.text(0.985, 0.02, text, ha="right", va="bottom", fontsize="small", color="0.35", transform=ax.transAxes)
    visible = [*points.loc[points["bpp"].fillna(0) <= right, metric], *([noisy] if np.isfinite(noisy) else [])]
    margin = 0.07 * np.ptp(visible) or 0.01 * abs(visible[0])
    ax.set(xlim=(0, right), ylim=(min(visible) - (1 + len(beyond)) * margin, max(visible) + margin))


def example(rows: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Captions and images for `strip`: one test image noisy, decoded by the middle rung of each curve, and clean.

    ``rows``: `results.read` with folders, where runs keep images as ``pictures/<dataset>_<image>_{noisy,decoded,clean}
    .png``; the image that most curves have is taken. Empty where there are none.
    """
    stems = pd.Series(map(picture_stem, rows["dataset"], rows["image"]), index=rows.index, dtype=object)
    rows = rows.assign(file=rows["folder"] + "/pictures/" + stems, which=stems + rows["sigma"].map(noise_label))
    rows = rows[rows["file"].map(lambda file: Path(f"{file}_decoded.png").exists())].dropna(subset=["bpp", "psnr"])
    if rows.empty:
        return []
    curves_of_image = rows.groupby("which", sort=False)["curve"].nunique()
    rows = rows[rows["which"] == curves_of_image.idxmax()].sort_values("bpp")

    def load(row: pd.Series, kind: str) -> np.ndarray:
        return np.asarray(Image.open(f"{row['file']}_{kind}.png").convert("RGB"))

    first = rows.iloc[0]
    images = [(f"noisy, {noise_label(first['sigma'])}\n{first['psnr_noisy']:.2f} dB", load(first, "noisy"))]
    for _, curve in rows.groupby("curve", sort=False):
        row = curve.iloc[len(curve) // 2]
        title = f"{row['method']}, {rung_label(row['lmbda'], row['quality'], row['method'])}".strip(", ")
        images.append((f"{title}\n{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB", load(row, "decoded")))
    return [*images, (f"clean\n{first['dataset']}, {first['image']}", load(first, "clean"))]


def strip(images: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Write the same crop of all images (uint8, h w 3) side by side, captions of two lines above.

    The crop is the central 192 pixels of each side (all of a smaller image), enlarged by a whole factor of 2 or more,
    which makes the noise visible. ValueError: sizes differ, or images are not uint8 RGB.
    """
    height, width = images[0][1].shape[:2]
    if any(image.shape != (height, width, 3) or image.dtype != np.uint8 for _, image in images):
        raise ValueError("a strip takes uint8 RGB images of one size")
    h, w = min(height, 192), min(width, 192)
    top, left = (height - h) // 2, (width - w) // 2
    zoom = max(1, 384 // max(h, w))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 15)
    gap, head = 8, 48
    cell = max(zoom * w, *(ceil(font.getlength(line)) for caption, _ in images for line in caption.split("\n")))
    sheet = Image.new("RGB", (gap + len(images) * (cell + gap), head + zoom * h + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(images):
        x = gap + i * (cell + gap)
        crop = image[top : top + h, left : left + w].repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet.paste(Image.fromarray(crop), (x, head))
        draw.text((x, head - 6), caption, fill="black", font=font, anchor="ld")
    sheet.save(path)
