"""What denoise-then-compress costs beside the joint codec: `python experiments/real_noise/macs.py WIDTH...`.

Thousands of multiply-accumulates a pixel (products alone) on 512 x 512 pixels: the U-Net, and the encoder of the
many-priors codec behind it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from jdcsuite.bench.common import configuration
from jdcsuite.training import job as training

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1]))
import script

SIDE = 512


@torch.no_grad()
def kmac(work: Callable[[Tensor], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work(torch.zeros(1, 3, SIDE, SIDE))
    return counter.get_total_flops() / 2 / SIDE**2 / 1000


def macs(given: argparse.Namespace) -> None:
    for width in given.widths:
        unet, codec = (
            training.construct(configuration(f"width={width}", experiment=name)["model"]).eval()
            for name in ("unet", "jdc_cn8")
        )
        before, own = kmac(lambda x, unet=unet: unet.denoise(x, tile=0)), kmac(codec.analyse)
        times = (before + own) / own
        print(f"width {width:g}: U-Net {before:.1f}, encoder {own:.1f} kMAC/px; both: {times:.1f} times the encoder")


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("widths", type=float, nargs="+")
    script.run(macs, parser, words)


if __name__ == "__main__":
    main()
