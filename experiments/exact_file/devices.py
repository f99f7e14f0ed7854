"""Every codec of the suite on every device and setting at hand -> which files open where, and whether their symbols are
the same.

`python experiments/exact_file/devices.py`: a photograph is compressed under each setting and each file is decompressed
under each. Weights are random, in every layer, as training leaves them. A file whose symbols differ does not open: each
tile holds their checksum.
"""

from __future__ import annotations

from dataclasses import dataclass

from jdcsuite.bench.coding import photograph
from jdcsuite.coding.codec import Codec
from jdcsuite.models.drop_in import DropIn
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.models.testolina import Testolina
from jdcsuite.types import CorruptFile

import torch


@dataclass(frozen=True)
class Setting:
    """``matmul``: `torch.set_float32_matmul_precision`. ``library``: oneDNN on a CPU, cuDNN's search on a GPU."""

    device: str
    threads: int
    channels_last: bool
    matmul: str
    library: bool
    tile: int

    def apply(self, codec: Codec) -> None:
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.mkldnn.enabled = self.library or self.device != "cpu"
        torch.backends.cudnn.benchmark = self.library
        codec.to(self.device)
        codec.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


SETTINGS = [
    Setting("cpu", 1, False, "highest", True, 1024),
    Setting("cpu", 2, False, "highest", False, 1024),
    Setting("cpu", 2, True, "medium", True, 256),
]
if torch.cuda.is_available():
    SETTINGS += [
        Setting("cuda", 8, False, "highest", False, 1024),
        Setting("cuda", 8, True, "high", True, 256),
        Setting("cuda", 8, False, "medium", True, 1024),
    ]

CODECS = {
    "FLLIC": lambda: FLLIC(widths=[64, 64, 96], num_latents=384, prior_width=192),
    "many priors": lambda: ManyPriors(),
    "mbt2018-mean": lambda: DropIn(architecture="MeanScaleHyperprior", num_channels=128, num_latents=192),
    "scale hyperprior": lambda: DropIn(architecture="ScaleHyperprior", num_channels=128, num_latents=192),
    "Testolina": lambda: Testolina(num_channels=64, num_latents=96),
}


def main() -> None:
    picture = photograph((320, 448))
    for name, build in CODECS.items():
        torch.manual_seed(0)
        codec = build()
        for parameter in codec.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.7 * parameter.std() * torch.randn_like(parameter))
        codec.eval()
        codec.update()
        files, opened, decoded = [], 0, {}
        for setting in SETTINGS:
            setting.apply(codec)
            files.append(codec.compress(picture.to(setting.device), tile=setting.tile))
        for setting in SETTINGS:
            setting.apply(codec)
            for i, file in enumerate(files):
                try:
                    x_hat = codec.decompress(file).cpu()
                except CorruptFile as error:
                    print(f"{name}, {setting}: {error}")
                    continue
                opened += 1
                decoded.setdefault(i, []).append(x_hat)
        spread = max(float((a - same[0]).abs().max()) for same in decoded.values() for a in same)
        print(
            f"{name}: {opened} of {len(files) * len(SETTINGS)} opened; "
            f"files of {sorted({len(f) for f in files})} bytes; "
            f"pictures of one file within {255 * spread:.3f} grey levels",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
