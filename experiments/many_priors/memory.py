"""Memory and time of `jdc compress` and `jdc decompress` on a noisy picture of 24 megapixels (6000 x 4000).

python experiments/many_priors/memory.py WEIGHTS
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.imaging.read import embedded

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
import script


def memory(given: argparse.Namespace) -> None:
    weights.read_about(weights.path_of(given.weights))  # refuses a wrong file before the image is made
    random = np.random.default_rng(0)
    (_, photograph), *_ = embedded("test")
    h, w = photograph.shape[:2]
    picture = np.pad(photograph, ((0, 4000 - h), (0, 6000 - w), (0, 0)), mode="reflect")
    noisy = (picture + random.normal(0, 10, picture.shape).astype(np.float32)).clip(0, 255).round().astype(np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        image, coded, back = (Path(folder) / name for name in ("noisy.png", "noisy.jdc", "clean.png"))
        Image.fromarray(noisy).save(image, compress_level=1)
        for line in (
            ["compress", image, "-o", coded, "--no-verify"],
            ["compress", image, "-o", coded, "--force"],
            ["decompress", coded, "-o", back],
        ):
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "jdcsuite.cli", *map(str, line), "--weights", str(given.weights)]
            )
            _, status, used = os.wait4(process.pid, 0)
            spent = time.perf_counter() - begun
            said = " ".join(str(word) for word in line if not isinstance(word, Path) and word != "-o")
            print(f"{said}: {used.ru_maxrss / 2**20:.2f} GiB, {spent:.0f} s, exit {status >> 8}", flush=True)
        print(f"{coded.stat().st_size} bytes, {8 * coded.stat().st_size / noisy[..., 0].size:.3f} bpp")


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    script.run(memory, parser, words)


if __name__ == "__main__":
    main()
