"""Two batches of images -> their MS-SSIM, in full float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 176  # pixels: the smallest side that five scales of an 11-tap window allow


@contextmanager
def full_float32() -> Iterator[None]:
    """Switch autocast and TF32 off. TF32 keeps 11 bits, too few for the variances that SSIM divides by: on a GPU, the
    MS-SSIM of a flat image with itself came out as 0."""
    no_tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False), no_tf32:
        yield


def ms_ssim(x_hat: Float[Tensor, "b 3 h w"], clean: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
    """MS-SSIM of each image (Wang et al., 2003); values in [0, 1], sides of `SMALLEST` pixels or more."""
    # here, because torchmetrics takes seconds to import and most processes have no need of it
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    with full_float32():
        values = multiscale_structural_similarity_index_measure(
            x_hat.float(), clean.float(), data_range=1.0, reduction="none"
        )
    return values.reshape(-1)
