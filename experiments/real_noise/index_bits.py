"""Many-priors weights and pictures -> what the numbers of the chosen priors would cost if they were modelled.

`python experiments/real_noise/index_bits.py WEIGHTS FOLDER`: bits a number, fixed (log2 of the number of priors),
without context and given the number above, each picture under counts of the others (as `index_probabilities`).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from jdcsuite import weights
from jdcsuite.data.images import files, read
from jdcsuite.data.noise import to_tensor
from jdcsuite.entropy.competition import INDEX_PRIOR, Competition


def counted(prior: Competition, numbers: Tensor) -> Tensor:
    """How often each number follows each number above it: (priors + 1, priors)."""
    at = (prior.above(numbers) * prior.num_priors + numbers).flatten()
    return torch.bincount(at, minlength=prior.seen.numel()).view(prior.seen.shape).double()


def main(weights_file: str, folder: str) -> None:
    codec = weights.load(weights_file)
    prior = codec.prior_y
    maps, pixels = [], 0
    for path in files(Path(folder)):
        x = to_tensor(read(path))[None]
        pixels += x.shape[-2] * x.shape[-1]
        maps.append(prior.choose(torch.round(codec.analyse(codec.pad(x)))))
    counts = [counted(prior, numbers) for numbers in maps]
    total, places = sum(counts), sum(numbers.numel() for numbers in maps)
    plain = given = 0.0
    for own in counts:
        seen = total - own
        alone = (seen.sum(0) + 1) / (seen.sum() + prior.num_priors)
        table = (INDEX_PRIOR * alone + seen) / (INDEX_PRIOR + seen.sum(1, keepdim=True))
        plain -= float((own.sum(0) * torch.log2(alone)).sum())
        given -= float((own * torch.log2(table)).sum())
    fixed = math.log2(prior.num_priors)
    print(f"{len(maps)} pictures, {places} places, {int((total.sum(0) > 0).sum())} of {prior.num_priors} priors used")
    for what, bits in (("fixed", fixed * places), ("without context", plain), ("given the one above", given)):
        print(f"{what}: {bits / places:.2f} bits a number, {bits / pixels:.4f} bpp")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1], sys.argv[2])
