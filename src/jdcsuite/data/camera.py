"""Clean images -> spatially correlated noise as in camera files: sensor noise on the raw mosaic, developed to sRGB.

Everything is computed on the device for the whole batch, each image with its own Bayer pattern, gains and softening.
kornia's `raw_to_rgb` takes one pattern per batch and copies its kernel from the CPU at every call, which makes a GPU
wait; the interpolation here is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

PARAMETERS = 9  # uniform numbers per image


def camera_noise(
    clean: Float[Tensor, "b 3 h w"],
    *,
    level: Float[Tensor, "b 1 1 1"],
    normal: Float[Tensor, "b 3 h w"],
    uniform: Float[Tensor, "b k"],
) -> Float[Tensor, "b 3 h w"]:
    """The noise of developed images: developed(noisy raw) - developed(clean raw), so that the blur of demosaicing is
    not part of it. Mean 0 and root mean square ``level`` (0 to 1) in each image.

    ``normal``: standard normal numbers. ``uniform``: `PARAMETERS` per image, from [0, 1): Bayer pattern (2), gains of
    red and blue, share of shot noise, whiteness, softening of luminance and of colour, strength of colour.

    In half of the images the noise is as demosaicing leaves it; in the others it is whiter, down to white, as in images
    that were scaled down. Correlation of neighbours 0 to .85, of colour up to .95 and over 8 pixels, as in cc15 and
    polyu_crops (compared in `tests/test_law.py`).
    """
    u = uniform[:, :, None, None].unbind(1)
    red, blue = bayer(clean, row=u[0][:, None] < 0.5, column=u[1][:, None] < 0.5)
    # White balance multiplies the sensor's red and blue, and their noise, by 1 to 2.5.
    gains = torch.stack([1 + 1.5 * u[2], torch.ones_like(u[2]), 1 + 1.5 * u[3]], 1)
    # Lifted above black, where sRGB's slope would give shadows 14 times the noise of midtones; cameras' curves do not.
    raw = mosaic(rgb_to_linear_rgb(0.1 + 0.9 * clean) / gains, red, blue)
    mean = raw.mean((1, 2, 3), keepdim=True)
    # The slope at the mean: d linear / d sRGB = 2.2 sRGB^1.2. At most a quarter of the mean, so that the curvature
    # does not turn noise into a shift of brightness; higher levels are scaled up at the end.
    strength = torch.minimum(level * 2.2 * mean ** (1.2 / 2.2), mean / 4).clamp(min=1e-4)
    # the variance of shot noise is proportional to the signal, that of read-out noise is constant
    shot = 0.3 + 0.7 * u[4][:, None]
    grain = strength * (shot * raw / mean + 1 - shot).sqrt() * normal
    # demosaicing is linear: signal and noise in one pass, as in the curve below
    samples = torch.cat([raw, grain[:, :1]])
    bare, spread = demosaic(samples, torch.cat([red, red]), torch.cat([blue, blue])).chunk(2)
    white = (2 * u[5][:, None] - 1).clamp(min=0)
    grain = torch.lerp(spread, grain, white)
    noisy, without = _srgb(torch.cat([(bare + grain) * gains, bare * gains])).chunk(2)
    noise = noisy - without
    grey = noise.mean(1, keepdim=True)
    light = _softened(grey, (2 * u[6][:, None] - 0.4) * (1 - white))
    # Cameras blur colour more than light, and store half of its resolution, but their colour matrices amplify it.
    colour = _softened(noise - grey, 4 * u[7][:, None] * (1 - white))
    noise = light + colour * ((0.2 + u[8][:, None]) * _rms(light) / _rms(colour))
    noise = noise - noise.mean((1, 2, 3), keepdim=True)
    return noise * (level / _rms(noise))


def bayer(
    like: Float[Tensor, "b 3 h w"], *, row: Bool[Tensor, "b 1 1 1"], column: Bool[Tensor, "b 1 1 1"]
) -> tuple[Bool[Tensor, "b 1 h w"], Bool[Tensor, "b 1 h w"]]:
    """Where the mosaic has red and blue samples; the rest is green. ``row``, ``column``: whether red is on odd ones."""
    height, width = like.shape[-2:]
    rows = (torch.arange(height, device=like.device) % 2 == 1)[None, None, :, None] == row
    columns = (torch.arange(width, device=like.device) % 2 == 1)[None, None, None, :] == column
    return rows & columns, ~rows & ~columns


def mosaic(
    rgb: Float[Tensor, "b 3 h w"], red: Bool[Tensor, "b 1 h w"], blue: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """One colour per pixel, as a sensor measures it."""
    return torch.where(red, rgb[:, 0:1], torch.where(blue, rgb[:, 2:3], rgb[:, 1:2]))


def demosaic(
    raw: Float[Tensor, "b 1 h w"], red: Bool[Tensor, "b 1 h w"], blue: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Bilinear: a missing colour is the mean of its two or four nearest samples. Sides of 2 pixels or more."""
    height, width = raw.shape[-2:]
    padded = F.pad(raw, (1, 1, 1, 1), "reflect")  # continues the pattern across the border

    def at(down: int, right: int) -> Tensor:
        return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    beside, above = (at(0, -1) + at(0, 1)) / 2, (at(-1, 0) + at(1, 0)) / 2
    diagonal = (at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)) / 4
    red_row = red | red.roll(1, -1)
    green = torch.where(red | blue, (beside + above) / 2, raw)

    def other(own: Tensor, opposite: Tensor, own_row: Tensor) -> Tensor:
        return torch.where(own, raw, torch.where(opposite, diagonal, torch.where(own_row, beside, above)))

    return torch.cat([other(red, blue, red_row), green, other(blue, red, ~red_row)], 1)


def _srgb(linear: Tensor) -> Tensor:
    return linear_rgb_to_rgb(linear.clamp(min=0))


def _softened(component: Float[Tensor, "b c h w"], amount: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b c h w"]:
    """Noise after a camera's own sharpening and denoising. ``amount``: below 0 sharpened, 0 unchanged, 1 blurred over 3
    pixels, 2 over 8, 3 over 16."""
    softened, coarse = component, component
    for octave in range(3):
        blurred = F.avg_pool2d(F.pad(coarse, (1, 1, 1, 1), "replicate"), 3, stride=1)
        share = (amount - octave).clamp(min=0 if octave else None, max=1)
        softened = torch.lerp(softened, F.interpolate(blurred, component.shape[-2:], mode="bilinear"), share)
        coarse = F.avg_pool2d(blurred, 2, ceil_mode=True, count_include_pad=False)
    return softened


def _rms(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 1"]:
    return x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
