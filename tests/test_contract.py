"""What a model and a criterion from elsewhere have to do, each checked by one that does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from jdcsuite.bench.common import configuration
from jdcsuite.models.clean_entropy import CleanEntropy
from jdcsuite.models.fllic import FLLIC
from jdcsuite.training import job as training
from jdcsuite.training.contract import check
from jdcsuite.training.criteria import Denoising, EntropyRegression, RateDistortion
from jdcsuite.training.supervision import Supervised
from jdcsuite.training.task import CodecTask, DenoiserTask, EstimatorTask, Task
from jdcsuite.types import Output, Pair, UserError


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without the type checker of the tests, as for a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def task(kind: type[Task] = CodecTask, *, model: nn.Module | None = None, criterion: nn.Module | None = None) -> Task:
    return kind(
        model=model or FLLIC(widths=[8, 8, 16], num_latents=16, prior_width=4),
        criterion=criterion or RateDistortion(lmbda=100.0, supervision=Supervised()),
        optimizer=partial(torch.optim.SGD, lr=0.1), schedule=lambda step: 1.0, max_norm=1.0, seed=0,
    )  # fmt: skip


def message(of: Task) -> str:
    with pytest.raises(UserError) as refused:
        check(of)
    assert "\n" not in str(refused.value)
    return str(refused.value)


MS_SSIM = ("criterion.distance=ms_ssim", "lmbda=32")
EXPERIMENTS = [("fllic",), ("fllic_w", "target=distortion"), ("clean_entropy", "target=lossless"), ("jdc_cn",),
               ("jdc_cn8_ms_ssim",), ("codec", *MS_SSIM), ("testolina_range", *MS_SSIM), ("fllic", *MS_SSIM), ("unet",),
               ("restormer",), ("lcfdnet",), ("flagship",), ("mbt2018_mean",)]  # fmt: skip


@pytest.mark.parametrize("words", EXPERIMENTS, ids=" ".join)
def test_our_models_and_criteria_pass(words: tuple[str, ...]) -> None:
    config = configuration("width=0.04", *words[1:], experiment=words[0])
    parts = {name: training.construct(config[name]) for name in ("model", "criterion")}
    check(training.construct(config["task"], **parts))


class Criterion(nn.Module):
    """A criterion whose parts a function of the Output computes."""

    def __init__(self, parts: Callable[[Output], object]) -> None:
        super().__init__()
        self.parts = parts

    def prepare(self, pair: Pair) -> Pair:
        return pair

    def forward(self, output: Output, pair: Pair) -> object:
        return self.parts(output)


class Unprepared(Criterion):
    def prepare(self, pair: Pair) -> None:
        pass


CRITERIA = {
    "has to return a dict of tensors with a 'loss'": lambda output: {"mse": output.x_hat.mean()},
    "has to return loss of shape [], not [2]": lambda output: {"loss": output.x_hat.mean((1, 2, 3))},
    "has to return a tensor as bpp, not a float": lambda output: {"loss": output.x_hat.mean(), "bpp": 1.0},
    "has to return finite values as loss": lambda output: {"loss": output.x_hat.mean() / 0},
    "has to return a 'loss' with a gradient": lambda output: {"loss": output.x_hat.mean().detach()},
    "reaches no parameter of the model": lambda output: {"loss": torch.zeros((), requires_grad=True)},
    "gives gradients that are not finite": lambda output: {"loss": (0 * output.x_hat).sum().abs().sqrt()},
    "fails (KeyError: 'psnr')": lambda output: {"loss": output.likelihoods["psnr"]},
}


@pytest.mark.parametrize("expected", CRITERIA)
def test_a_criterion_that_breaks_the_contract_is_named(expected: str) -> None:
    shown = message(task(criterion=Criterion(CRITERIA[expected])))
    assert shown.startswith("criterion test_contract.Criterion: ") and expected in shown


def test_a_criterion_has_to_prepare_pairs() -> None:
    assert message(task(criterion=Unprepared(CRITERIA["reaches no parameter of the model"]))) == (
        "criterion test_contract.Unprepared: prepare(pair) has to return a Pair, not a NoneType"
    )
    assert "prepare(pair) fails (AttributeError:" in message(task(criterion=nn.Identity()))


class Mine(FLLIC):
    """A codec that is right, with one method replaced."""

    def __init__(self, **methods: Callable) -> None:
        super().__init__(widths=[8, 8, 16], num_latents=16, prior_width=4)
        for name, method in methods.items():
            setattr(self, name, partial(method, self))


def forward(change: Callable[[Output], object]) -> Mine:
    return Mine(forward=lambda self, x, **options: change(FLLIC.forward(self, x, **options)))


def likelihood(value: float) -> Mine:
    return forward(lambda out: replace(out, likelihoods={"y": value * out.likelihoods["y"]}))


MODELS = {
    "has to return a jdcsuite.types.Output, not a torch.Tensor": lambda: forward(lambda out: out.x_hat),
    "has to return x_hat of shape [2, 3, 64, 64], not [2, 3, 63, 64]": lambda: forward(
        lambda out: replace(out, x_hat=out.x_hat[:, :, 1:])
    ),
    "has to return a tensor as x_hat, not a NoneType": lambda: forward(lambda out: replace(out, x_hat=None)),
    "forward(x, sigma=, bpp_noisy=) has to return finite values as x_hat": lambda: forward(
        lambda out: replace(out, x_hat=out.x_hat / 0)
    ),
    "has to return likelihoods, the probability": lambda: forward(lambda out: replace(out, likelihoods={})),
    "has to return likelihoods[y] above 0, up to 1": lambda: likelihood(0),
    "has to return finite values as likelihoods[y]": lambda: likelihood(float("nan")),
    "update() fails (NotImplementedError: )": lambda: Mine(update=lambda self: raising(NotImplementedError)),
    "decompress(data) has to return x_hat of shape [1, 3, 63, 61], not [1, 3, 64, 61]": lambda: Mine(
        decompress=lambda self, data: FLLIC.decompress(self, data)[:, :, [0, *range(63)]]
    ),
    "decompress(data) has to return finite values as x_hat": lambda: Mine(
        decompress=lambda self, data: FLLIC.decompress(self, data) * torch.nan
    ),
    "compress(x, sigma=) has to return bytes, not a list": lambda: Mine(compress=lambda self, x, **options: [b""]),
    "compress(x, sigma=) fails (OSError: full)": lambda: Mine(
        compress=lambda self, x, **options: raising(OSError("full"))
    ),
}


def raising(error: type[Exception] | Exception) -> None:
    raise error


@pytest.mark.parametrize("expected", MODELS)
def test_a_codec_that_breaks_the_contract_is_named(expected: str) -> None:
    shown = message(task(model=MODELS[expected]()))
    assert shown.startswith("model test_contract.Mine: ") and expected in shown


def test_a_codec_names_its_prior_networks() -> None:
    model = Mine()
    model.prior_networks = ("nowhere",)
    assert "compress(x, sigma=) fails (AttributeError:" in message(task(model=model))


def test_several_devices_need_a_gradient_for_every_trained_parameter() -> None:
    model = Mine()
    model.unused = nn.Parameter(torch.zeros(1))
    check(task(model=model))
    with pytest.raises(UserError, match=r"gives no gradient to model\.unused, which trainer\.devices=2 needs"):
        check(task(model=model), devices=2)
    model.unused.requires_grad_(False)
    check(task(model=model), devices=2)


class Net(nn.Module):
    """Neither a codec nor a denoiser nor an estimator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, *, sigma: Tensor, bpp_noisy: Tensor) -> Output:
        p = torch.sigmoid(self.net(x))
        return Output(x_hat=p[..., 1:], likelihoods={"y": p}, h_hat=p.mean((1, 2, 3))[None])


def test_denoisers_and_estimators_have_outputs_of_their_own() -> None:
    assert "x_hat of shape [2, 3, 64, 64], not [2, 3, 64, 63]" in message(
        task(DenoiserTask, model=Net(), criterion=Denoising())
    )
    assert "h_hat of shape [2], not [1, 2]" in message(task(EstimatorTask, model=Net(), criterion=EntropyRegression()))


class Whole(Net):
    def forward(self, x: Tensor, *, sigma: Tensor, bpp_noisy: Tensor) -> Output:
        p = torch.sigmoid(self.net(x))
        return Output(x_hat=p, likelihoods={"y": p})


def test_a_network_that_cannot_code_is_no_codec() -> None:
    assert "update() fails (AttributeError: 'Whole' object has no attribute 'update')" in message(task(model=Whole()))


def test_what_the_data_do_not_measure_is_missing_in_the_check_too() -> None:
    of = task(EstimatorTask, model=CleanEntropy(widths=[8, 8], lossless=None), criterion=EntropyRegression())
    check(of)
    with pytest.raises(UserError, match=r"set data\.lossless to a coder"):
        check(of, lossless=False)


@pytest.mark.parametrize("broken", [False, True])
def test_a_check_leaves_no_trace(broken: bool) -> None:
    of = task(criterion=Criterion(CRITERIA["gives gradients that are not finite"]) if broken else None).eval()
    before = {name: tensor.clone() for name, tensor in of.state_dict().items()}
    states = random.getstate(), torch.get_rng_state().tolist()
    if broken:
        message(of)
    else:
        check(of)
    assert states == (random.getstate(), torch.get_rng_state().tolist())
    assert all(torch.equal(before[name], tensor) for name, tensor in of.state_dict().items())
    assert not of.training and all(p.grad is None for p in of.parameters()) and not of.model.tables
