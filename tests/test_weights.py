"""Weights files: what is saved is what codes again, and a file from elsewhere can neither pass nor call anything."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jdcsuite.artifacts import weights
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.models.clean_entropy import CleanEntropy
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.types import UserError

LOSSLESS = {"_target_": "jdcsuite.imaging.lossless.Lossless", "coder": "png", "effort": 2}
GUIDE = {
    "_target_": "jdcsuite.models.clean_entropy.CleanEntropy",
    "widths": [4, 4], "hidden": 4, "unit": 6.0, "lossless": LOSSLESS,
}  # fmt: skip
FLLIC_CONFIG = {
    "_target_": "jdcsuite.models.fllic.FLLIC",
    "widths": [4, 4, 8], "num_latents": 8, "prior_width": 4, "latent_gain": 12.0, "guide": GUIDE,
}  # fmt: skip
PLAIN_CONFIG = FLLIC_CONFIG | {"guide": None}
ABOUT = {"method": "fllic_w", "sigma": 10, "folder": Path("somewhere")}


def guide() -> CleanEntropy:
    return CleanEntropy(widths=[4, 4], hidden=4, unit=6.0, lossless=Lossless(coder="png", effort=2))


def fllic(*, guided: bool = False, seed: int = 0, latents: int = 8) -> FLLIC:
    torch.manual_seed(seed)
    parts = {"widths": [4, 4, 8], "num_latents": latents, "prior_width": 4, "latent_gain": 12.0}
    net = FLLIC(**parts, guide=guide() if guided else None)
    net.eval().update()
    return net


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


# -- there and back --------------------------------------------------------------------------------------------


def test_a_guided_codec_codes_as_before(path):
    net = fllic(guided=True)
    with torch.no_grad():
        net.guide.head[-1].bias.fill_(0.5)
    weights.save(net, FLLIC_CONFIG, path, about=ABOUT)
    back = weights.load(path)
    assert isinstance(back, FLLIC) and not back.training
    assert back.latent_gain == 12.0 and back.guide.unit == 6.0 and back.guide.lossless.name == "png-e2"
    assert back.model_id == net.model_id
    assert all(torch.equal(t, back.state_dict()[name]) for name, t in net.state_dict().items())
    assert any(name.startswith("guide.") for name in net.state_dict())
    x = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(1))
    data = net.compress(x, sigma=10.0)
    assert back.compress(x, sigma=10.0) == data
    assert torch.equal(back.decompress(data), net.decompress(data))


def test_tables_are_read_as_they_were_written_never_rebuilt(path, monkeypatch):
    net = fllic()
    edited = net.tables["z"].cdf.clone()
    edited[1, 1 + int(edited[1].diff().argmax())] -= 1
    net.tables["z"] = replace(net.tables["z"], cdf=edited)
    weights.save(net, PLAIN_CONFIG, path, about={})

    def never(self):
        raise AssertionError("libraries differ: a rebuilt table may not be the written one")

    monkeypatch.setattr(FLLIC, "make_tables", never)
    back = weights.load(path)
    assert set(back.tables) == {"y", "z"}
    for name, table in net.tables.items():
        for part in ("cdf", "length", "offset"):
            assert torch.equal(getattr(back.tables[name], part), getattr(table, part))
            assert getattr(back.tables[name], part).dtype == torch.int32
    assert back.model_id == net.model_id


def test_a_codec_saved_before_update_must_be_updated_before_it_codes(path):
    torch.manual_seed(0)
    weights.save(FLLIC(widths=[4, 4, 8], num_latents=8, prior_width=4), PLAIN_CONFIG, path, about={})
    with pytest.raises(RuntimeError, match="update"):
        weights.load(path).compress(torch.rand(1, 3, 8, 8))


def test_a_model_that_is_no_codec_comes_back_too(path):
    net = guide()
    weights.save(net, GUIDE, path, about={})
    back = weights.load(path)
    x, known = torch.rand(1, 3, 9, 9), {"sigma": torch.tensor([9.0]), "bpp_noisy": torch.tensor([11.0])}
    assert type(back) is CleanEntropy and torch.equal(back(x, **known).h_hat, net(x, **known).h_hat)


def test_a_file_tells_its_configuration_and_where_it_came_from(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about=ABOUT)
    config, about, tensors = weights.read(path)
    assert config == PLAIN_CONFIG
    assert about == {"method": "fllic_w", "sigma": 10, "folder": "somewhere"}
    assert set(fllic().state_dict()) < set(tensors) and "tables.y.cdf" in tensors


def test_a_run_s_folder_stands_for_its_weights_and_nothing_is_left_beside_them(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about={})
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]
    assert weights.path_of(path.parent) == weights.path_of(str(path)) == path
    assert weights.load(path.parent).model_id == weights.load(path).model_id


def test_saving_over_weights_replaces_them(path):
    weights.save(fllic(seed=1), PLAIN_CONFIG, path, about={})
    weights.save(fllic(seed=2), PLAIN_CONFIG, path, about={})
    assert weights.load(path).model_id == fllic(seed=2).model_id


def test_missing_weights_are_one_sentence(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "nothing.safetensors"):
        with pytest.raises(UserError, match="there are no weights at"):
            weights.load(place)


def test_a_model_starts_from_another_run_s_weights(path):
    weights.save(fllic(seed=1), PLAIN_CONFIG, path, about={})
    net = fllic(seed=2).train()
    weights.load_into(net, path)
    assert net.training and net.model_id == fllic(seed=1).model_id


# -- other models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [lambda: fllic(latents=12), lambda: fllic(guided=True), guide])
def test_another_model_s_weights_are_refused_and_nothing_is_loaded(path, other):
    weights.save(fllic(), PLAIN_CONFIG, path, about={})
    model = other()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(UserError, match="another model"):
        weights.load_into(model, path)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_configuration_that_does_not_fit_its_tensors_is_refused(path):
    weights.save(fllic(), PLAIN_CONFIG | {"num_latents": 12}, path, about={})
    with pytest.raises(UserError, match="another model"):
        weights.load(path)


def test_a_file_without_one_of_its_tensors_is_refused(path):
    net = fllic()
    tensors = {**net.state_dict(), **net.table_state()}
    del tensors["g_a.0.skip.weight"]
    metadata = {"format": weights.FORMAT, "model": json.dumps(PLAIN_CONFIG), "about": "{}"}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match=r"g_a\.0\.skip\.weight"):
        weights.load(path)


# -- files from elsewhere --------------------------------------------------------------------------------------

FOREIGN = [
    "os.system", "subprocess.Popen", "builtins.exec", "builtins.eval", "pathlib.Path.touch", "pathlib.Path",
    "jdcsuite.cli.main", "jdcsuite.study.sweep.run", "jdcsuite.artifacts.weights.save", "jdcsuite.types.Pair",
    "jdcsuite.models", "jdcsuite.modelsx.Evil", "jdcsuite.models.fllic", "torch.load", "torch.nn.Linear", "", "FLLIC",
    "jdcsuite.models.fllic.conv3x3", "jdcsuite.models.fllic.UserError", "jdcsuite.models.fllic.Tensor",
    "jdcsuite.models.fllic.nn", "jdcsuite.models.fllic.Nothing", "jdcsuite.imaging.lossless.load_imagecodecs",
]  # fmt: skip


def forge(path: Path, config: object) -> None:
    net = fllic()
    metadata = {"format": weights.FORMAT, "model": json.dumps(config), "about": "{}"}
    save_file({**net.state_dict(), **net.table_state()}, path, metadata=metadata)


@pytest.mark.parametrize("target", FOREIGN)
def test_a_file_that_asks_for_anything_but_a_model_is_refused(path, target):
    called = path.parent / "called"
    call = {"_target_": target, "command": f"touch {called}", "args": ["touch", str(called)]}
    for config in (call, PLAIN_CONFIG | {"guide": call}, PLAIN_CONFIG | {"widths": [4, {"deep": [call]}, 8]}):
        forge(path, config)
        with pytest.raises(UserError, match="do not use this file"):
            weights.load(path)
        assert not called.exists()


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
def test_a_file_that_steers_the_construction_is_refused(path, key):
    for config in (PLAIN_CONFIG | {key: True}, FLLIC_CONFIG | {"guide": GUIDE | {key: True}}):
        forge(path, config)
        with pytest.raises(UserError, match="do not use this file"):
            weights.load(path)


@pytest.mark.parametrize("wrap", ["${{oc.create:{}}}", "${{oc.create:{{deeper: [{}]}}}}"])
def test_a_target_hidden_in_an_interpolation_is_refused(path, wrap):
    called = path.parent / "called"
    touch = f"{{_target_: pathlib.Path.touch, self: {{_target_: pathlib.Path, _args_: ['{called}']}}}}"
    forge(path, PLAIN_CONFIG | {"guide": wrap.format(touch)})
    try:
        with pytest.raises(UserError):
            weights.load(path)
    finally:
        assert not called.exists()


def test_a_file_cannot_read_the_environment(path, monkeypatch):
    monkeypatch.setenv("SECRET", "random")
    forge(path, PLAIN_CONFIG | {"start": "${oc.env:SECRET}"})
    with pytest.raises(UserError):
        weights.load(path)


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "jdcsuite.models.nothing.Net"}, {"_target_": "jdcsuite.models.fllic.torch.nn.Linear"},
        {"_target_": "jdcsuite.coding.codec.Codec"}, {}, [], PLAIN_CONFIG | {"depth": 3}, PLAIN_CONFIG | {"widths": 4},
        PLAIN_CONFIG | {"start": "zeros"}, LOSSLESS,
    ],
)  # fmt: skip
def test_a_configuration_that_builds_no_model_is_one_sentence(path, config):
    forge(path, config)
    with pytest.raises(UserError):
        weights.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"cdf": lambda t: t[:0]}, {"cdf": lambda t: t[:-1]}, {"cdf": lambda t: torch.cat([t, t[-1:]])},
        {"cdf": lambda t: t[None]}, {"cdf": lambda t: t.int()}, {"cdf": lambda t: t.view(torch.int16)},
        {"cdf": lambda t: torch.zeros_like(t)}, {"cdf": lambda t: t.int().flip(0).to(torch.uint16)},
        {"cdf": lambda t: torch.full_like(t, 2**16 - 1)}, {"length": lambda t: t + 1}, {"length": lambda t: t.long()},
        {"length": lambda t: torch.full_like(t, 99_999_999)}, {"length": lambda t: torch.zeros_like(t)},
        {"length": lambda t: t[:-1]}, {"length": lambda t: t[None]},
        {"length": lambda t: t[:0], "offset": lambda t: t[:0]}, {"offset": lambda t: torch.full_like(t, -(2**31))},
        {"offset": lambda t: t.float()}, {"offset": lambda t: t[:-1]}, {"length": None},
        {"cdf": None}, {"offset": None},
    ],
)  # fmt: skip
def test_tables_outside_which_a_decoder_would_search_are_refused(path, change):
    net = fllic()
    tensors = {**net.state_dict(), **net.table_state()}
    assert tensors["tables.z.length"].shape == (4,)
    metadata = {"format": weights.FORMAT, "model": json.dumps(PLAIN_CONFIG), "about": "{}"}
    save_file(tensors, path, metadata=metadata)
    assert weights.load(path).model_id == net.model_id
    for name, to_other in change.items():
        tensor = tensors.pop(f"tables.z.{name}")
        if to_other is not None:
            tensors[f"tables.z.{name}"] = to_other(tensor).contiguous()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match="damaged"):
        weights.load(path)


def test_weights_of_a_training_that_diverged_are_refused(path):
    model = fllic(guided=True)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    model.update()
    weights.save(model, FLLIC_CONFIG, path, about=ABOUT)
    with pytest.raises(UserError, match=r"not finite .*its training diverged"):
        weights.load(path)
    with pytest.raises(UserError, match="latents are not finite"):
        model.compress(torch.rand(1, 3, 32, 32))


def test_a_file_of_another_program_is_refused(path):
    tensors = fllic().state_dict()
    for metadata in (None, {"format": "pt"}, {"format": "jdcsuite-2", "model": "{}", "about": "{}"}):
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(UserError, match="not written by jdcsuite"):
            weights.load(path)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(path):
    called = path.parent / "called"
    for write in (
        lambda: torch.save({"state_dict": Trap(called)}, path),
        lambda: path.write_bytes(pickle.dumps(Trap(called))),
    ):
        write()
        with pytest.raises(UserError, match="not a readable weights file"):
            weights.load(path)
        assert not called.exists()
    pickle.loads(pickle.dumps(Trap(called)))
    assert called.exists()  # the trap works


def test_truncated_and_extended_files_are_refused(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about={})
    data = path.read_bytes()
    for damaged in (data[:0], data[:7], data[:8], data[:500], data[: len(data) // 2], data[:-1], data + b"\0" * 8):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable weights file"):
            weights.load(path)


def test_a_damaged_description_is_one_sentence(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about={"method": "fllic"})
    data = path.read_bytes()
    end = data.index(b'"bound_scale.bound"')
    for place in range(8, end, 3):
        damaged = bytearray(data)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            weights.load(path)  # a name or a number of `about` may have changed
        except UserError:
            continue


def test_a_damaged_tensor_is_noticed(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about={})
    assert "g_s.1.skip.weight" not in load_file(path)
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError):
        weights.load(path)


# -- half the size ---------------------------------------------------------------------------------------------


def test_weights_are_not_exported_over_themselves(path):
    """Their files would not open any more."""
    weights.save(fllic(), PLAIN_CONFIG, path, about={})
    before = path.read_bytes()
    with pytest.raises(UserError, match="is what is exported, and files that it wrote open with it alone"):
        weights.export(path, path.parent / ".." / path.parent.name / path.name)
    assert path.read_bytes() == before


def test_exported_weights_are_half_the_size_and_code_under_a_name_of_their_own(path, tmp_path):
    net = fllic()
    weights.save(net, PLAIN_CONFIG, path, about=ABOUT)
    out = tmp_path / "kept" / "half.safetensors"
    weights.export(path, out)
    stored = load_file(out)
    assert all(stored[name].dtype == torch.bfloat16 for name, _ in net.named_parameters())
    half = weights.load(out)
    assert all(torch.equal(p, q.bfloat16().float()) for p, q in zip(half.parameters(), net.parameters(), strict=True))
    assert half.model_id != net.model_id and weights.load(out).model_id == half.model_id
    # tables of the rounded weights, not of the ones before
    half.update()
    assert all(torch.equal(t, weights.load(out).table_state()[name]) for name, t in half.table_state().items())
    x = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(weights.load(out).decompress(half.compress(x)), half.decompress(half.compress(x)))


def test_others_may_read_what_is_saved(path):
    weights.save(fllic(), PLAIN_CONFIG, path, about=ABOUT)
    assert path.stat().st_mode & 0o044 == 0o044 & ~weights._umask()


def test_weights_of_before_a_class_moved_are_read(path):
    older = GUIDE | {"lossless": LOSSLESS | {"_target_": "jdcsuite.entropy.lossless.Lossless"}}
    weights.save(guide(), older, path, about={})
    assert weights.load(path).lossless.name == "png-e2"


# -- absurd descriptions and sizes ------------------------------------------------------------------------------

MANY = {"_target_": "jdcsuite.models.manypriors.ManyPriors", "num_channels": 8, "num_latents": 12, "num_priors": 6}
FLAGSHIP = {
    "_target_": "jdcsuite.models.flagship.Flagship",
    "widths": [8, 8], "blocks": [1, 1], "num_latents": 24, "prior_width": 8, "embedding": 8,
}  # fmt: skip
UNET = {"_target_": "jdcsuite.models.unet.UNet", "width": 4}
DIGITS, NESTING = "9" * 5000, (("[", "]"), ('{"a":', "}"))


@pytest.mark.parametrize("config", [
    *(f'{{"a": {opening * n}{closing * n}}}' for n in (30, 900, 100_000) for opening, closing in NESTING),
    json.dumps(PLAIN_CONFIG).replace("12.0", DIGITS), "[" * 100, "x" * 2**21, '"text"',
])  # fmt: skip
def test_a_description_that_no_run_writes_is_one_sentence(path, config):
    for metadata in ({"model": config, "about": "{}"}, {"model": "{}", "about": config}):
        save_file(fllic().state_dict(), path, metadata={"format": weights.FORMAT, **metadata})
        for read in (weights.load, weights.read_about):
            with pytest.raises(UserError, match="damaged") as error:
                read(path)
            assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "12", "x" * 10_000, -1, 0, None, [8.0], 2**63, 10**30, int("9" * 4000)]
)
@pytest.mark.parametrize("config", [PLAIN_CONFIG, MANY, FLAGSHIP])
def test_a_gain_that_is_no_positive_number_is_one_sentence(path, config, value):
    forge(path, config | {"latent_gain": value})
    with pytest.raises(UserError, match=r"builds no model|more than 64 bits") as error:
        weights.load(path)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_a_long_header_is_not_read(path):
    path.write_bytes((2**30).to_bytes(8, "little") + b" " * 100)
    with pytest.raises(UserError, match="header is too long"):
        weights.load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e5m2, torch.int32, torch.bool, torch.complex64])
def test_numbers_that_the_model_cannot_hold_are_refused(path, dtype):
    state = {**fllic().state_dict(), **fllic().table_state()}
    state["g_a.0.skip.weight"] = torch.full(state["g_a.0.skip.weight"].shape, 1e300, dtype=torch.float64).to(dtype)
    save_file(state, path, metadata={"format": weights.FORMAT, "model": json.dumps(PLAIN_CONFIG), "about": "{}"})
    with pytest.raises(UserError, match=r"not finite|another model"):
        weights.load(path)


def test_a_missing_table_is_one_sentence(path):
    tensors, metadata = (
        {**fllic().state_dict(), **fllic().table_state()},
        {"format": weights.FORMAT, "model": json.dumps(PLAIN_CONFIG), "about": "{}"},
    )
    fewer = {f"tables.z.{part}": tensors[f"tables.z.{part}"][:3] for part in ("length", "offset")}
    fewer["tables.z.cdf"] = tensors["tables.z.cdf"][: int(fewer["tables.z.length"].sum()) - 3]
    for change in (
        {name: None for name in tensors if name.startswith("tables.z.")}, {"tables.z.offset": None}, fewer,
        {name.replace(".z.", ".x."): t.clone() for name, t in tensors.items() if ".z." in name},
        {"tables.": torch.zeros(1)},
    ):  # fmt: skip
        save_file({k: t for k, t in (tensors | change).items() if t is not None}, path, metadata=metadata)
        with pytest.raises(UserError, match=r"damaged: it has .*; take the file again"):
            weights.load(path)


HUGE = """
import resource, sys, time
from jdcsuite.artifacts import weights
from jdcsuite.types import UserError
weights.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        weights.load(path)
    except UserError as error:
        assert "another model" in str(error) or "builds no model" in str(error), error
    else:
        raise AssertionError(path)
    assert time.process_time() - start < 2, path
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_sizes_that_a_file_does_not_have_take_no_memory(tmp_path):
    """20,000 latents or 2**26 priors took 5 to 9 GiB before they were refused."""
    changes = [
        (PLAIN_CONFIG, {"num_latents": 20_000}), (PLAIN_CONFIG, {"num_latents": 10**9}), (UNET, {"width": 4096}),
        (MANY, {"num_priors": 2**26}), (MANY, {"num_latents": 20_000}), (FLAGSHIP, {"blocks": [10**9, 1]}),
        (FLAGSHIP, {"embedding": 2**30}), (FLLIC_CONFIG, {"guide": GUIDE | {"widths": [1] * 100_000}}),
        (FLLIC_CONFIG, {"guide": GUIDE | {"hidden": 2**30}}), (PLAIN_CONFIG, {"widths": [2**14] * 3}),
        ({"_target_": "jdcsuite.models.testolina.Testolina", "num_channels": 2**14, "num_latents": 2**14}, {}),
    ]  # fmt: skip
    weights.save(fllic(), PLAIN_CONFIG, tmp_path / "valid.safetensors", about={})
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(changes))]
    for path, (config, change) in zip(paths, changes, strict=True):
        forge(path, config | change)
    command = [sys.executable, "-c", HUGE, tmp_path / "valid.safetensors", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024, f"{int(done.stdout) >> 10} MiB"


# -- the state of PyTorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [fllic, lambda: ManyPriors(num_channels=8, num_latents=12, num_priors=6).eval()])
@pytest.mark.parametrize("way", ["float64", "inference", "meta"])
def test_weights_load_and_code_alike_in_any_state_of_pytorch(path, model, way):
    net = model()
    net.update()
    config = PLAIN_CONFIG if isinstance(net, FLLIC) else MANY
    weights.save(net, config, path, about={})
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    data = net.compress(image)
    try:
        if way == "float64":
            torch.set_default_dtype(torch.float64)
        with torch.inference_mode(way == "inference"):
            with torch.device("meta" if way == "meta" else "cpu"):
                back = weights.load(path)
            assert back.model_id == net.model_id
            assert back.compress(image) == data
            np.testing.assert_array_equal(back.decompress_array(data), net.decompress_array(data))
        assert torch.get_default_dtype() == (torch.float64 if way == "float64" else torch.float32)
        assert back.compress(image) == data and all(not tensor.is_inference() for tensor in back.state_dict().values())
    finally:
        torch.set_default_dtype(torch.float32)
