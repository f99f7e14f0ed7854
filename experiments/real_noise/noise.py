"""Folders of noisy/ and clean/ -> how well the blind estimates know their noise, and how white it is.

`python experiments/real_noise/noise.py FOLDER...`: means over pictures of the estimate that BM3D and non-local means
use and of the root mean square of noisy - clean, both in 8-bit grey levels; the median of their ratio, and that of
the estimate that reads correlated noise too; the correlation of the noise between horizontal neighbours (0: white).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.data.estimate import estimate_sigma, noise_of
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
import script


def noise(given: argparse.Namespace) -> None:
    for folder in given.folders:
        rows = []
        for path in image_files(folder / "noisy"):
            noisy, clean = read(path), read(folder / "clean" / path.name)
            noise = noisy.astype(float) - clean
            neighbours = (noise[:, 1:] * noise[:, :-1]).mean() / (noise**2).mean()
            estimates = estimate_sigma(to_tensor(noisy)), noise_of(noisy).rms
            rows.append((*estimates, np.sqrt((noise**2).mean()), neighbours))
        estimate, of_correlated, rms, neighbours = np.array(rows).T
        print(f"{folder.name}: {len(rows)} pictures, estimated {estimate.mean():.2f}, rms {rms.mean():.2f}, "
              f"ratio {np.median(estimate / rms):.2f}, of noise_of {np.median(of_correlated / rms):.2f}, "
              f"neighbours {neighbours.mean():.2f}")  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="of noisy/ and clean/")
    script.run(noise, parser, words)


if __name__ == "__main__":
    main()
