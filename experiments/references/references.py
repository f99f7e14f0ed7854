"""Kodak24 -> rows of the standard codecs, alone and after BM3D, at sigma 0, 5, 10, 15 and 20.

    python experiments/references/references.py DATA/kodak24 --jobs 2

Rows go to ``results.csv`` beside this file; what it holds is not measured again. BM3D is given the noise level, and
takes about a minute of one core an image and level. ``--sigma`` and ``--without-bm3d`` measure a part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
import script

HERE = Path(__file__).parent
LOSSY = ["jpeg@10,35,65,80,90", "jpeg2000@22,24,26,28,30,34,38", "jpegxl@8,4,2,1,0.5", "avif@20,40,50,60,70,85",
         "avif-420@20,40,50,60,70,85,92", "jpeg-420@10,35,65,80,90",
         "webp@0,20,50,80,95"]  # fmt: skip
LOSSLESS = ["png", "webp-lossless", "jpegxl-lossless", "jpegls", "jpeg2000-lossless"]
AFTER_BM3D = ["avif@40,50,60,70,80,90", "jpegxl@3,2,1,0.5", "jpeg2000@30,34,36,38", "jpegxl-lossless"]


def words(sigma: float, *, bm3d: bool) -> list[str]:
    """The codecs at one noise level, as `jdc evaluate` takes them."""
    return [*LOSSY, *LOSSLESS, *(f"bm3d@{sigma:g}+{codec}" for codec in AFTER_BM3D if bm3d and sigma)]


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("kodak24", type=Path, help="folder of the 24 images")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0, 5, 10, 15, 20])
    parser.add_argument("--without-bm3d", action="store_true")
    parser.add_argument("--jobs", default="1", help="processes")
    parser.add_argument("--out", type=script.file_to_write, default=HERE / "results.csv")
    return script.run(measure, parser, arguments)


def measure(options: argparse.Namespace) -> int:
    failed = 0
    for sigma in options.sigma:
        codecs = words(sigma, bm3d=not options.without_bm3d)
        command = ["evaluate", *codecs, "--data", str(options.kodak24), "--sigma", f"{sigma:g}", "--jobs", options.jobs]
        program = [sys.executable, "-c", "import jdcsuite.cli; jdcsuite.cli.main()"]
        failed |= subprocess.run([*program, *command, "--out", str(options.out)], check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
