"""Restormer: published size and names of its weights, supported image sizes, whole images and blended tiles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite.models.denoiser import blended
from jdcsuite.models.restormer import Restormer


def small(**options: object) -> Restormer:
    torch.manual_seed(0)
    return Restormer(**({"width": 8, "blocks": (1, 1, 1, 1), "refinement": 1} | options)).eval()


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state_dict for Gaussian colour denoising."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (48, 3, 3, 3), "output.weight": (3, 96, 3, 3)}
    levels = [(f"encoder_level{i + 1}", 48 * 2**i, 2**i, n) for i, n in enumerate((4, 6, 6))]
    levels += [("latent", 384, 8, 8), ("decoder_level3", 192, 4, 6), ("decoder_level2", 96, 2, 6)]
    levels += [("decoder_level1", 96, 1, 4), ("refinement", 96, 1, 4)]
    for level, c, heads, blocks in levels:
        hidden = int(c * 2.66)
        for block in range(blocks):
            shapes |= {
                f"{level}.{block}.{name}": shape
                for name, shape in {
                    "norm1.body.weight": (c,),
                    "attn.temperature": (heads, 1, 1),
                    "attn.qkv.weight": (3 * c, c, 1, 1),
                    "attn.qkv_dwconv.weight": (3 * c, 1, 3, 3),
                    "attn.project_out.weight": (c, c, 1, 1),
                    "norm2.body.weight": (c,),
                    "ffn.project_in.weight": (2 * hidden, c, 1, 1),
                    "ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
                    "ffn.project_out.weight": (c, hidden, 1, 1),
                }.items()
            }
    for name, c in (("down1_2", 48), ("down2_3", 96), ("down3_4", 192)):
        shapes[f"{name}.body.0.weight"] = (c // 2, c, 3, 3)
    for name, c in (("up4_3", 384), ("up3_2", 192), ("up2_1", 96)):
        shapes[f"{name}.body.0.weight"] = (2 * c, c, 3, 3)
    return shapes | {"reduce_chan_level3.weight": (192, 384, 1, 1), "reduce_chan_level2.weight": (96, 192, 1, 1)}


def test_it_is_as_large_as_published() -> None:
    """26.1 M parameters and 141 GMAC of convolutions at 256 x 256, which is what the paper counts; the products of the
    attention are another 13.9."""
    with torch.device("meta"):
        net, x = Restormer(), torch.rand(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter:
        net(x)
    counts = counter.get_flop_counts()["Global"]
    assert sum(p.numel() for p in net.parameters()) == 26_111_668
    assert counts[torch.ops.aten.convolution] / 2e9 == pytest.approx(140.99, abs=0.01)
    assert counter.get_total_flops() / 2e9 == pytest.approx(154.88, abs=0.01)


def test_every_published_tensor_has_its_place_and_none_is_left_over() -> None:
    with torch.device("meta"):
        net = Restormer()
        published = {name: torch.empty(shape) for name, shape in published_shapes().items()}
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    mapped = {name: tuple(tensor.shape) for name, tensor in Restormer.from_published(published).items()}
    assert len(mapped) == len(published) and mapped == own


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (64, 65)])
def test_the_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    assert small()(x).x_hat.shape == x.shape


def test_attention_reaches_the_whole_image() -> None:
    """So the result of a tile depends on where the tile ends, unlike a U-Net's."""
    net, x = small(), torch.rand(1, 3, 256, 64)
    changed = x.clone()
    changed[..., -8:, :] = 0
    with torch.no_grad():
        difference = (net(x).x_hat - net(changed).x_hat)[..., :8, :]
    assert difference.abs().max() > 1e-5


def test_images_up_to_a_tile_are_denoised_whole() -> None:
    net, x = small(), torch.rand(1, 3, 40, 72)
    with torch.no_grad():
        assert torch.equal(net.denoise(x), net(x).x_hat.clamp(0, 1))


def test_tiles_are_blended_without_seams() -> None:
    """Tiles whose results differ by a constant: hard joins would jump by .3 from one pixel to the next."""
    x, offsets = torch.full((1, 3, 100, 230), 0.5), iter([0.0, 0.3, 0.0, 0.3, 0.0, 0.3, 0.0, 0.3])
    out = blended(lambda part: part + next(offsets), x, tile=64, margin=16)
    jumps = max(float(out.diff(dim=axis).abs().max()) for axis in (2, 3))
    assert 0.29 < float(out.max() - out.min()) <= 0.3 + 1e-6 and jumps < 0.3 / 16
    whole = torch.rand(1, 3, 100, 230)
    assert torch.allclose(blended(lambda part: part, whole, tile=64, margin=16), whole, atol=1e-6)


def test_tiles_are_close_to_the_whole_image() -> None:
    """The overlap is at most the margin: every part is computed with its neighbourhood."""
    net, sizes = small(), []
    forward = net._denoise_tile

    def recorded(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return forward(x)

    net._denoise_tile = recorded
    x = torch.rand(1, 3, 72, 300)
    tiles, whole = net.denoise(x, tile=128), net.denoise(x, tile=0)
    assert sizes == [(72, 192), (72, 236), (72, 108), (72, 300)]
    assert (tiles - whole).abs().mean() < 0.01
