"""Many-priors weights and pictures -> what the numbers of the chosen priors cost, in files that were written and read.

`python experiments/real_noise/index_bits.py WEIGHTS FOLDER`: the same weights with `index_cost` fixed and adaptive:
bits a number, bpp of the numbers and of all that is coded (headers left out). Adaptive tables are the counts that
training kept. The picture is the same under both, as is checked: the choice of priors changes no latent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.coding.container import unpack
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.types import UserError

import torch

sys.path.append(str(Path(__file__).parents[1]))
import script

KINDS = ("fixed", "adaptive")


@torch.no_grad()
def index_bits(given: argparse.Namespace) -> None:
    codecs = {}
    for kind in KINDS:
        codecs[kind] = weights.load(given.weights)
        if not isinstance(codecs[kind], ManyPriors):
            raise UserError(
                f"{given.weights} holds a {type(codecs[kind]).__name__}: give weights of a many-priors codec"
            )
        codecs[kind].prior_y.index_cost = kind
        codecs[kind].update()
    spent = {kind: {"index": 0, "y": 0} for kind in KINDS}
    used, pixels, places, pictures = set(), 0, 0, 0
    for path in image_files(given.folder):
        x = to_tensor(read(path))[None]
        decoded = []
        for kind, codec in codecs.items():
            data = codec.compress(x)
            decoded.append(codec.decompress(data))
            for tile in unpack(data).tiles:
                for name, segment in zip(codec.segment_names, tile.segments, strict=True):
                    spent[kind][name] += 8 * len(segment)
        if not torch.equal(*decoded):
            raise RuntimeError(f"{path.name} decodes to another picture when the numbers cost otherwise")
        y = codecs["fixed"].analyse(codecs["fixed"].pad(x))
        used |= set(codecs["fixed"].prior_y.choose(torch.round(y)).flatten().tolist())
        places += y.shape[-2] * y.shape[-1]
        pixels += x.shape[-2] * x.shape[-1]
        pictures += 1
    print(f"{pictures} pictures, {places} places, {len(used)} of {codecs['fixed'].prior_y.num_priors} priors used")
    for kind, bits in spent.items():
        total, fixed = sum(bits.values()), sum(spent["fixed"].values())
        number, bpp = bits["index"] / places, [part / pixels for part in (bits["index"], total)]
        print(f"{kind}: {number:.2f} bits a number, {bpp[0]:.4f} of {bpp[1]:.4f} bpp, {1 - total / fixed:.1%} saved")


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    script.run(index_bits, parser, words)


if __name__ == "__main__":
    main()
