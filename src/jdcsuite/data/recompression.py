"""Images -> what JPEG leaves of them, as in developed photographs; on the device, a whole batch at once.

kornia's JPEG rounds with a smooth function, for gradients, and reads values back from the device, which makes a GPU
wait.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from jdcsuite.imaging.dct import block_dct, block_idct

BLOCK = 8
STEEPNESS = (0.4, 1.2)  # growth of the steps with each frequency, for luminance and colour, as in the tables of Annex K
MOST = 6.0  # ratio of the largest step to that of the mean


def jpeg(
    x: Float[Tensor, "b 3 h w"], *, step: Float[Tensor, "b 1 1 1"], halved: Bool[Tensor, "b 1 1 1"]
) -> Float[Tensor, "b 3 h w"]:
    """Images in [0, 1] after JPEG. ``step``: quantisation step of a block's mean in grey levels; 16 is quality 50, 4
    about 88. ``halved``: whether colour is stored at half its resolution (4:2:0).

    differs from ITU-T T.81: its annex K is an example, and cameras have tables of their own; here (k, l) has the step
    times 1 + .4 (k + l), for colours 1 + 1.2 (k + l), at most 6.
    """
    height, width = x.shape[-2:]
    padded = F.pad(255 * x, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), "replicate")
    red, green, blue = padded.split(1, 1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = torch.cat([(blue - light) / 1.772, (red - light) / 1.402], 1)
    light = _quantised(light - 128, step, STEEPNESS[0]) + 128
    quarter = _quantised(F.avg_pool2d(colours, 2), step, STEEPNESS[1])
    upsampled = F.interpolate(quarter, scale_factor=2, mode="bilinear")
    blue, red = torch.where(halved, upsampled, _quantised(colours, step, STEEPNESS[1])).split(1, 1)
    blue, red = light + 1.772 * blue, light + 1.402 * red
    green = (light - 0.299 * red - 0.114 * blue) / 0.587
    return (torch.cat([red, green, blue], 1)[..., :height, :width] / 255).clamp(0, 1)


def table(step: Float[Tensor, "b 1 1 1"], steepness: float) -> Float[Tensor, "b 8 8"]:
    """Quantisation steps of the frequencies: integers from 1 to 255."""
    k = torch.arange(BLOCK, device=step.device)
    growth = (1 + steepness * (k[:, None] + k)).clamp(max=MOST)
    return (step[:, 0] * growth).round().clamp(1, 255)


def _quantised(
    plane: Float[Tensor, "b c h w"], step: Float[Tensor, "b 1 1 1"], steepness: float
) -> Float[Tensor, "b c h w"]:
    steps = table(step, steepness)[:, None, None, :, None, :]
    return block_idct((block_dct(plane, BLOCK) / steps).round() * steps)
