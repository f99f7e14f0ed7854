"""kodim03, 08, 19 and 23 with noise of sigma 10 -> how far our rows are from figures measured without this package.

    python experiments/references/check.py DATA/kodak24

The figures of ``independent.csv`` were measured by a script of its own with imagecodecs, BM3D and numpy's
default_rng(1): means of four images. They must agree within .02 dB and .5 % of the rate; the exit status says whether
they do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from jdcsuite.imaging.read import read
from jdcsuite.judging import results

import numpy as np
import pandas as pd
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
import script

IMAGES = ("kodim03", "kodim08", "kodim19", "kodim23")
DECIBELS, SHARE = 0.02, 0.005
ROUNDING = 0.005  # of the independent figures, in bpp and dB
INDEPENDENT = Path(__file__).with_name("independent.csv")


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("kodak24", type=Path)
    parser.add_argument("--without-bm3d", action="store_true")
    return script.run(check, parser, arguments)


def check(options: argparse.Namespace) -> int:
    expected = pd.read_csv(INDEPENDENT)
    if options.without_bm3d:
        expected = expected[~expected["codec"].str.startswith("bm3d")]
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder, "four")
        for kind in ("noisy", "clean"):
            (pairs / kind).mkdir(parents=True)
        for name in IMAGES:
            clean = read(options.kodak24 / f"{name}.png")
            noise = np.random.default_rng(1).normal(0, 10, clean.shape)
            Image.fromarray(clean).save(pairs / "clean" / f"{name}.png")
            Image.fromarray((clean + noise).round().clip(0, 255).astype(np.uint8)).save(pairs / "noisy" / f"{name}.png")
        out = Path(folder, "rows.csv")
        command = ["evaluate", *expected["codec"], "--data", str(pairs), "--out", str(out)]
        program = [sys.executable, "-c", "import jdcsuite.cli; jdcsuite.cli.main()"]
        if failed := subprocess.run([*program, *command], check=False).returncode:
            return failed
        rows = results.read([out])
    apart = False
    for line, (_, measured) in zip(expected.itertuples(), rows.groupby(["method", "quality"], sort=False), strict=True):
        bpp, psnr = measured["bpp"].mean(), measured["psnr"].mean()
        near = abs(psnr - line.psnr) <= DECIBELS + ROUNDING and abs(bpp - line.bpp) <= SHARE * line.bpp + ROUNDING
        apart |= not near
        print(
            f"{line.codec:24} {bpp:7.3f} bpp ({line.bpp:g})  {psnr:6.2f} dB ({line.psnr:g})  {'' if near else 'APART'}"
        )
    return int(apart)


if __name__ == "__main__":
    sys.exit(main())
