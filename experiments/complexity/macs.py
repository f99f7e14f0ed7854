"""Parameters and multiply-accumulates of every method at its published width, to `results.csv`, and the two ways of
counting JDC's cascade: `python experiments/complexity/macs.py`.

Products alone, by PyTorch's counter.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from jdcsuite.bench.common import configuration
from jdcsuite.models.lcfdnet import LCFDNet
from jdcsuite.models.restormer import Restormer
from jdcsuite.models.unet import UNet
from jdcsuite.training import job as training

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

LARGE = 8168  # pixels: of an image whose border does not matter
OUT = Path(__file__).with_name("results.csv")
CODECS = ("fllic", "jdc_cn8", "testolina", "mbt2018_mean", "flagship")
SIDE = 128  # pixels, as `jdc bench` counts
TILE, USEFUL = 504, 480  # pixels: of NIND's denoiser, and the part of a tile that it keeps


@torch.no_grad()
def gmac(work: Callable[[Tensor], object], side: int, *, channels: int = 3, device: str = "cpu") -> float:
    x = torch.zeros(1, channels, side, side, device=device)
    with FlopCounterMode(display=False) as counter:
        work(x)
    return counter.get_total_flops() / 2e9


def kmac(work: Callable[[Tensor], object], side: int = SIDE, *, scale: int = 1, channels: int = 3) -> float:
    """Thousands per pixel of an image ``scale`` times as large as the input of ``work``."""
    return 1e6 * gmac(work, side // scale, channels=channels) / side**2


def rows() -> list[dict[str, object]]:
    found = []
    for name in CODECS:
        model = training.construct(configuration("width=1", experiment=name)["model"]).eval()
        row = {"method": name, "parameters": parameters(model)}
        if name != "flagship":  # its transforms take the conditions of a file
            row["analysis_kmac_px"] = kmac(model.analyse)
            row["synthesis_kmac_px"] = kmac(model.synthesise, scale=16, channels=model.num_latents)
        card = configuration("width=1", experiment=name)["card"]
        found.append(row | {"all_kmac_px": card["kmac_per_px"]})
    for name, model_class in {"unet": UNet, "restormer": Restormer, "lcfdnet": LCFDNet}.items():
        with torch.device("meta"):
            model = model_class()
        card = configuration("width=1", experiment=name)["card"]
        found.append({"method": name, "parameters": parameters(model), "all_kmac_px": card["kmac_per_px"]})
    return found


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cascade() -> None:
    """93 against 812 + 93 GMAC per megapixel, and against 735 + 93."""
    with torch.device("meta"):  # nothing is computed
        unet = UNet()
    encoder = kmac(training.construct(configuration("width=1", experiment="jdc_cn8")["model"]).analyse)
    tile = gmac(unet, TILE, device="meta")
    kept = 1e6 * tile / USEFUL**2
    whole = 1e6 * gmac(unet, LARGE, device="meta") / LARGE**2
    overlapping = whole * (TILE / USEFUL) ** 2
    print(f"JDC's encoder {encoder:.1f} GMAC/MP; U-Net {tile:.1f} GMAC for a tile of {TILE} pixels")
    for before, how in ((overlapping, f"{whole:.1f} x ({TILE}/{USEFUL})^2"), (kept, f"{tile:.1f} / {USEFUL}^2")):
        share = encoder / (before + encoder)
        print(f"  cascade {before:.0f} ({how}) + {encoder:.0f} GMAC/MP: the joint codec's encoder takes {share:.1%}")


if __name__ == "__main__":
    table = rows()
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["method", "parameters", "analysis_kmac_px", "synthesis_kmac_px", "all_kmac_px"])
        writer.writeheader()
        for row in table:
            writer.writerow({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()})
    for row in table:
        print("  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    cascade()
