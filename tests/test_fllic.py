"""FLLIC: files against the forward pass, damaged files, and training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fllic_examples import SIZES, TINY, assert_equals_forward, equals_forward, image, mse, psnr, ready, tiny

from jdcsuite.coding.container import header_bytes, pack, unpack
from jdcsuite.models.fllic import FLLIC
from jdcsuite.types import CorruptFile, Side, UserError


@pytest.fixture(scope="module")
def trained() -> FLLIC:
    """Trained for a few steps, so that most symbols are in the tables."""
    net = tiny()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = torch.cat([image(128, 128, seed=s) for s in range(4)])
    for _ in range(40):
        output = net(x)
        loss = sum(r.mean() for r in output.bpp(128 * 128).values()) + 1000 * mse(output.x_hat, x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return ready(net)


# -- coding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_decoded_image_is_that_of_forward_up_to_exact_entropy_parameters(trained, size):
    equal = 0
    for seed in (7, 8, 9):  # in one of the three, two latents may lie halfway between integers
        x = image(*size, seed=seed)
        data = trained.compress(x)
        decoded = trained.decompress(data)
        with torch.no_grad():
            expected = trained(x).x_hat
        equal += equals_forward(decoded, expected)
        assert abs(psnr(decoded, x) - psnr(expected.clamp(0, 1), x)) < 0.05 or size == (1, 1)
        assert decoded.std() > 0 or size == (1, 1)
        assert trained.compress(x) == data
        assert (unpack(data).height, unpack(data).width, unpack(data).side.h) == (*size, 0)
    assert equal >= 2


@pytest.mark.parametrize("size", [(256, 192), (320, 320)])
def test_the_size_of_a_file_is_the_estimate(trained, size):
    x = image(*size, seed=11)
    data = trained.compress(x)
    with torch.no_grad():
        bits = {name: -torch.log2(p).sum().item() for name, p in trained(x).likelihoods.items()}
    payload = {"y": 0, "z": 0}
    for name, segment in zip(trained.segment_names, unpack(data).tiles[0].segments, strict=True):
        payload[name] += 8 * len(segment)
    total = 8 * (len(data) - header_bytes(unpack(data)))
    assert total == sum(payload.values())
    assert bits["y"] > 50 * 8 * 20  # enough bits for 1 % to be meaningful
    assert total == pytest.approx(sum(bits.values()), rel=0.01)
    # the state of a stream takes two words of 32 bits, of which 33 bits and on average half of the last word are lost
    for name in "yz":
        assert payload[name] - 48 == pytest.approx(bits[name], rel=0.006, abs=24)


@pytest.mark.parametrize(("log2_scale", "gain"), [(0.0, 2000.0), (9.0, 16.0), (9.0, 2000.0)])
def test_latents_far_outside_their_tables_are_coded_exactly(log2_scale, gain):
    net = tiny(latent_gain=gain)
    with torch.no_grad():
        net.fusion[-1].module.bias[32:64] = log2_scale
    ready(net)
    x = image(70, 64)
    data = net.compress(x)
    with torch.no_grad():
        assert_equals_forward(net.decompress(data), net(x).x_hat)
        y = net.analyse(net.pad(x))
        segments, written = net.encode_tile(y, side=Side())
        y_hat, read = net.decode_tile(segments, height=128, width=64, side=Side())
    assert unpack(data).tiles[0].segments == segments and torch.equal(read, written)
    assert y.abs().max() > (1000 if gain > 16 else 4)
    # a latent is decoded to within half a step whether or not it is in its table
    assert (y_hat - y).abs().max() < 0.51
    # at least half of the latents have the scale 2^9, 4 bits above the widest table
    assert not log2_scale or 8 * len(segments[1]) >= (9 + 1) * 32 * 8 * 4 / 2


def test_the_decoded_image_is_clamped_and_that_of_forward_is_not():
    net = tiny()
    with torch.no_grad():
        net.g_s[-1].module[0].bias.copy_(torch.tensor([0.9, 0.0, -0.9]).repeat_interleave(4))
        x = image(64, 64)
        x_hat = ready(net)(x).x_hat
    decoded = net.decompress(net.compress(x))
    assert_equals_forward(decoded, x_hat)
    assert decoded.min() == 0 and decoded.max() == 1
    assert x_hat[:, 0].max() > 1 and x_hat[:, 2].min() < 0


def test_other_weights_are_refused_with_both_ids(trained):
    other = ready(tiny(seed=1))
    data = trained.compress(image(16, 16))
    with pytest.raises(CorruptFile) as error:
        other.decompress(data)
    assert trained.model_id.hex() in str(error.value) and other.model_id.hex() in str(error.value)
    assert unpack(data).model_id == trained.model_id != other.model_id


def test_the_model_id_depends_on_every_weight_and_table():
    net, twin = ready(tiny()), ready(tiny())
    assert net.model_id == twin.model_id and len(net.model_id) == 8
    with torch.no_grad():
        net.g_s[-1].module[0].bias[0] += 1e-6
    net.update()
    net.update()
    assert net.model_id != twin.model_id
    before, tables = twin.model_id, twin.table_state()
    first = tables["tables.z.cdf"][: int(tables["tables.z.length"][0]) - 1].int()
    first[1 + int(first.diff().argmax())] -= 1
    tables["tables.z.cdf"] = torch.cat([first.to(torch.uint16), tables["tables.z.cdf"][len(first) :]])
    twin.load_table_state(tables)
    assert twin.model_id != before


@pytest.mark.parametrize("change", ["trained", "loaded"])
def test_weights_changed_after_update_do_not_write_files_with_their_old_id(change):
    net, other = ready(tiny()), tiny(seed=1)
    data = net.compress(image(8, 8))
    if change == "loaded":
        net.load_state_dict(other.state_dict())
    else:
        net.train()
        with torch.no_grad():
            net.g_s[-1].module[0].bias += 0.1
        net.eval()
    try:
        assert unpack(net.compress(image(8, 8))).model_id != unpack(data).model_id
    except RuntimeError:
        return  # coding is refused until update() is called


def test_every_damaged_byte_of_a_file_is_a_corrupt_file(trained):
    data = trained.compress(image(8, 8))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(CorruptFile):
            trained.decompress(bytes(damaged))


def test_a_file_with_another_number_of_segments_is_refused(trained):
    contents = unpack(trained.compress(image(8, 8)))
    z, y = contents.tiles[0].segments
    for segments in ([z], [z, y, b""]):
        with pytest.raises(CorruptFile, match=f"{len(segments)} segments"):
            trained.decompress(pack(replace(contents, tiles=[replace(contents.tiles[0], segments=segments)])))


def test_forged_segments_with_valid_file_checksums_are_refused(trained):
    """The checksum of the file is recomputed, so it does not detect the change."""
    contents = unpack(trained.compress(image(64, 64)))
    (tile,) = contents.tiles
    z, y = tile.segments
    for segments in ([z, y[:-4]], [z, y + b"\0" * 4], [z[:-4], y], [y, z], [z, b""], [b"", y], [z, y[:7]], [z, z]):
        with pytest.raises(CorruptFile):
            trained.decompress(pack(replace(contents, tiles=[replace(tile, segments=segments)])))
    with pytest.raises(CorruptFile, match="not those that were written"):
        trained.decompress(pack(replace(contents, tiles=[replace(tile, checksum=tile.checksum ^ 1)])))
    for changes in ({"height": 65}, {"height": 128, "width": 128}, {"side": Side(h=4000)}):
        with pytest.raises(CorruptFile):
            trained.decompress(pack(replace(contents, **changes)))


def test_every_changed_bit_of_the_symbols_is_detected_without_the_checksum_of_the_file(trained):
    contents = unpack(trained.compress(image(8, 8)))
    (tile,) = contents.tiles
    for i, segment in enumerate(tile.segments):
        for place in range(len(segment)):
            damaged = bytearray(segment)
            damaged[place] ^= 1 << place % 8
            segments = [bytes(damaged) if j == i else s for j, s in enumerate(tile.segments)]
            with pytest.raises(CorruptFile):
                trained.decompress(pack(replace(contents, tiles=[replace(tile, segments=segments)])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_with_nan_or_infinity_is_refused(trained, value):
    x = image(64, 64)
    x[..., 5, 5] = value
    with pytest.raises(UserError, match="not finite: mend its samples"):
        trained.compress(x)


def test_coding_before_update_or_in_training_mode_is_refused(trained):
    x, fresh = image(8, 8), tiny().eval()
    for call in (lambda: fresh.compress(x), lambda: fresh.decompress(trained.compress(x))):
        with pytest.raises(RuntimeError, match="update"):
            call()
    training = ready(tiny()).train()
    with pytest.raises(RuntimeError, match="eval"):
        training.compress(x)


def test_padding_replicates_the_border():
    net = tiny()
    x = torch.rand(2, 3, 3, 66)
    padded = net.pad(x)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 61), (0, 62)), mode="edge")
    np.testing.assert_array_equal(padded.numpy(), expected)
    assert torch.equal(net.pad(padded), padded)


# -- forward ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 130)])
def test_forward_gives_a_likelihood_for_every_latent_of_the_padded_image(size):
    x = image(*size).expand(2, -1, -1, -1)
    output = tiny()(x)
    blocks = math.ceil(size[0] / 64) * math.ceil(size[1] / 64)
    assert output.x_hat.shape == x.shape and output.h_hat is None
    assert output.likelihoods["y"].numel() == 2 * 32 * 16 * blocks
    assert output.likelihoods["z"].numel() == 2 * 8 * blocks
    for p in output.likelihoods.values():
        assert (p >= 1e-9).all() and (p <= 1 + 1e-6).all()


def test_training_relaxes_the_rate_and_rounds_for_the_decoder():
    net, x = tiny(), image(64, 64)
    with torch.no_grad():
        first, second = net.train()(x), net(x)
        assert torch.equal(first.x_hat, second.x_hat)
        assert all(not torch.equal(first.likelihoods[n], second.likelihoods[n]) for n in "yz")
        rounded = net.eval()(x)
        assert torch.equal(rounded.x_hat, first.x_hat)
        assert all(torch.equal(rounded.likelihoods[n], net(x).likelihoods[n]) for n in "yz")


@pytest.mark.parametrize("start", ["haar", "random"])
@pytest.mark.parametrize("adaptive_steps", [True, False])
def test_every_trained_parameter_gets_a_gradient(start, adaptive_steps):
    # a gain at which no latent is rounded to 0 with either initialisation
    net, x = tiny(start=start, adaptive_steps=adaptive_steps, latent_gain=2000.0), image(64, 64)
    output = net(x)
    (sum(r.mean() for r in output.bpp(64 * 64).values()) + 100 * mse(output.x_hat, x)).backward()
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0, name


def test_each_rate_trains_the_transforms_of_its_latent():
    net = tiny()
    bpp = net(image(64, 64)).bpp(64 * 64)
    nets = {"y": [net.g_a, net.h_a, net.h_s, net.fusion, net.spatial_prior], "z": [net.g_a, net.h_a, net.prior_z]}
    for name, trained_by_it in nets.items():
        for part in trained_by_it:
            gradients = torch.autograd.grad(bpp[name], list(part.parameters()), retain_graph=True, allow_unused=True)
            assert any(g is not None and g.abs().max() > 0 for g in gradients), (name, part)


def test_large_values_stay_in_float32_under_autocast():
    net, x = tiny(latent_gain=2000.0).eval(), image(64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y, output = net.analyse(x), net(x)
    for tensor in (y, output.x_hat, *output.likelihoods.values()):
        assert tensor.dtype == torch.float32
    assert y.abs().max() > 256 and not torch.equal(y, y.bfloat16().float())


def test_a_wrong_start_is_refused():
    with pytest.raises(UserError, match="haar or random"):
        FLLIC(**TINY, start="zeros")
