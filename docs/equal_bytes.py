"""Draws docs/equal_bytes.png: an embedded photograph with noise of sigma 10, by several codecs in about as many bytes.

python docs/equal_bytes.py [WEIGHTS] [-o PICTURE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from jdcsuite.artifacts import weights
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.samples import Pictures
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.imaging.read import embedded
from jdcsuite.reports.crops import strip
from jdcsuite.reports.equal_bytes import reconstructions
from jdcsuite.types import UserError

ROOT = Path(__file__).resolve().parents[1]
TOP, LEFT, SIDE = 52, 128, 128  # pixels shown; sizes and PSNR are those of the whole picture

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("weights", nargs="?", type=Path, default=weights.shipped(), help="(those in the package)")
parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "equal_bytes.png")
options = parser.parse_args()

noise = GaussianNoise(sigma=10.0)
_, pair = Pictures(ImageCache.build(embedded("test")), noise=noise, noise_seed=0, lossless=None)[0]
try:
    codec = weights.load(options.weights)
except UserError as error:
    parser.error(str(error))
name = weights.read_about(options.weights).get("method") or options.weights.stem
images = [(caption, to_bytes(x[0])) for caption, x in reconstructions(pair, codec, name=name)]
strip([(caption, x[TOP : TOP + SIDE, LEFT : LEFT + SIDE]) for caption, x in images], options.out)
Image.open(options.out).quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)
for caption, _ in images:
    print(caption.replace("\n", ": "))
