"""A training step never synchronises with the device, and skips non-finite batches.

Two methods detect on a CPU what would synchronise on a GPU: counting the calls that read values of tensors during a
fit, and a forward pass on fake CUDA tensors without values, where every such call is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from jdcsuite.bench.common import configuration
from jdcsuite.coding.codec import Codec
from jdcsuite.data.draw import Draw
from jdcsuite.data.resident import Resident
from jdcsuite.device import coding_arithmetic, layout, training_arithmetic
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.training.callbacks import EMA, Compiled, Progress, checkpoint
from jdcsuite.training.task import CodecTask, Task
from jdcsuite.types import Pair

TINY = ("width=0.04", "data.crop=64", "data.batch=2")
LOG_EVERY = 4


def task(*words: str, experiment: str = "fllic") -> Task:
    config = configuration(*TINY, *words, experiment=experiment)
    parts = {name: training.construct(config[name]) for name in ("model", "criterion")}
    return training.construct(config["task"], **parts)


def pair(*, side: int = 64, device: str = "cpu") -> Pair:
    clean = torch.rand(2, 3, side, side, device=device)
    noisy = (clean + 0.04 * torch.randn_like(clean)).clamp(0, 1)
    numbers = {name: torch.full((2,), 10.0, device=device) for name in ("sigma", "bpp_noisy", "bpp_clean")}
    return Pair(noisy=noisy, clean=clean, **numbers)


class Reads(TorchDispatchMode):
    """Counts the operators of each step that return a value of a tensor to Python."""

    def __init__(self, step: Callable[[], int]) -> None:
        super().__init__()
        self.step, self.seen = step, Counter()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if str(func) in ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"):
            self.seen[self.step()] += 1
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Counts the calls of each step that copy a whole tensor, which are no operators on a CPU."""

    def __init__(self, step: Callable[[], int]) -> None:
        super().__init__()
        self.step, self.seen = step, Counter()

    def __torch_function__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if getattr(func, "__name__", "") in ("tolist", "cpu", "numpy", "__array__"):
            self.seen[self.step()] += 1
        return func(*args, **(kwargs or {}))


def fit(of: Task, batches: list[Pair], folder: Path, *callbacks: L.Callback) -> L.Trainer:
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=len(batches), max_epochs=-1, log_every_n_steps=LOG_EVERY,
        callbacks=[EMA(), *callbacks], logger=loggers.create(folder=folder),
        enable_progress_bar=any(isinstance(c, Progress) for c in callbacks), enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(of, DataLoader(batches, batch_size=None, collate_fn=lambda pair: pair))
    return trainer


@pytest.mark.parametrize("experiment", ["fllic", "jdc_cn", "unet"])
def test_values_are_read_at_log_steps_only(experiment: str, tmp_path: Path) -> None:
    of = task(experiment=experiment)
    step = lambda: of._trainer.global_step if of._trainer else -1  # noqa: E731
    with Reads(step) as reads, Copies(step) as copies:
        fit(of, [pair() for _ in range(2 * LOG_EVERY + 2)], tmp_path, Progress())
    # global_step counts finished steps, so a logging step reads at two of its values; 0 and 1 are the start of the fit
    at_logs = {0, 1, LOG_EVERY - 1, LOG_EVERY, 2 * LOG_EVERY - 1, 2 * LOG_EVERY, 2 * LOG_EVERY + 2}
    assert set(reads.seen) | set(copies.seen) <= at_logs, (reads.seen, copies.seen)
    assert reads.seen[LOG_EVERY] > 0, "reads for the log are counted"


@pytest.fixture
def cuda_without_values() -> Iterator[Callable[[Task], Task]]:
    """Fake tensors with shape and device only; moves a task there as training does."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    device = torch.device("cuda")

    def empty(t: Tensor) -> Tensor:
        kind = layout(device) if t.dim() == 4 else torch.contiguous_format
        return torch.empty(t.shape, dtype=t.dtype, device=device, memory_format=kind)

    try:
        with FakeTensorMode(allow_non_fake_inputs=False):
            yield lambda of: of._apply(empty).train()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


WORDS = {
    "fllic": (), "fllic_r2r": (), "fllic_w": ("target=distortion",), "clean_entropy": ("target=lossless",),
    "jdc_cn": (), "jdc_cn8_ms_ssim": (), "unet": (), "flagship": (),
}  # fmt: skip


@pytest.mark.parametrize("experiment", list(WORDS))
def test_a_step_on_cuda_reads_no_value(
    experiment: str, cuda_without_values: Callable[[Task], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        of = task(*WORDS[experiment], experiment=experiment)
    of = cuda_without_values(of)
    optimizer = of.configure_optimizers()["optimizer"]
    monkeypatch.setattr(type(of), "_logs", lambda self: False)
    batch = pair(side=256 if experiment.endswith("ms_ssim") else 64, device="cuda")
    batch = of.criterion.prepare(batch)
    of.observe(batch)
    loss = of.criterion(of.predict(batch), batch)["loss"]
    assert loss.device.type == "cuda" and loss.requires_grad
    # autograd needs a real device, so the gradients are set
    for parameter in of.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    of.configure_gradient_clipping(optimizer)
    optimizer.step()
    with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
        float(loss)


@pytest.mark.parametrize("experiment", ["fllic", "flagship"])
def test_a_batch_on_cuda_reads_no_value(
    experiment: str, cuda_without_values: Callable[[Task], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        module = training.construct(configuration(*TINY, experiment=experiment)["data"])
    device = torch.device("cuda")
    # a generator needs a real device
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    module._resident = Resident.__new__(Resident)
    module._resident.pixels = torch.empty(10**5, 3, dtype=torch.uint8, device=device)
    module._resident.halves = module.augment is not None
    numbers = {name: torch.ones(2, dtype=torch.int64, device=device) for name in ("at", "width", "scale")}
    flips = torch.ones(2, 3, dtype=torch.int64, device=device)
    batch = module.pair({**numbers, "flips": flips, "draw": Draw.whole(2, seed=0, device=device)})
    for images in (batch.noisy, batch.clean):
        assert images.device.type == "cuda" and images.shape == (2, 3, 64, 64)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("experiment", list(WORDS))
def test_a_step_does_not_synchronise_with_cuda(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    of = task(*WORDS[experiment], experiment=experiment).to(device).to(memory_format=layout(device)).train()
    optimizer = of.configure_optimizers()["optimizer"]
    monkeypatch.setattr(type(of), "_logs", lambda self: False)
    batch = pair(side=256 if experiment.endswith("ms_ssim") else 64, device="cuda")
    with training_arithmetic(device):
        for turn in range(3):
            torch.cuda.set_sync_debug_mode("error" if turn else "default")  # the first step selects algorithms
            try:
                with torch.autocast("cuda", torch.bfloat16):
                    prepared = of.criterion.prepare(batch)
                    of.observe(prepared)
                    loss = of.criterion(of.predict(prepared), prepared)["loss"]
                optimizer.zero_grad()
                loss.backward()
                of.configure_gradient_clipping(optimizer)
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(float(loss))


# -- a batch that is not finite ---------------------------------------------------------------------------------


class Line(nn.Module):
    """A model with parameters of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 1, 1)), nn.Parameter(torch.zeros(()))


class Mean(nn.Module):
    def prepare(self, pair: Pair) -> Pair:
        return pair

    def forward(self, output: Tensor, pair: Pair) -> dict[str, Tensor]:
        return {"loss": output.mean()}


class LineTask(CodecTask):
    def predict(self, pair: Pair) -> Tensor:
        return (pair.noisy * self.model.weight + self.model.bias) ** 2


def line(optimizer: partial, *, normalize: bool = False) -> LineTask:
    L.seed_everything(0, verbose=False)
    parts = {"model": Line(), "criterion": Mean(), "optimizer": optimizer}
    return LineTask(**parts, schedule=lambda step: 1.0, max_norm=1.0, seed=0, normalize=normalize)


def state(of: Task, trainer: L.Trainer) -> list[Tensor]:
    optimizer = trainer.optimizers[0]
    return [*of.parameters(), *(value for kept in optimizer.state.values() for value in kept.values())]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [partial(torch.optim.Adam, lr=0.1, fused=True), partial(torch.optim.Adam, lr=0.1),
     partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True)],
)  # fmt: skip
def test_a_batch_that_is_not_finite_changes_nothing(
    optimizer: partial, normalize: bool, bad: float, tmp_path: Path
) -> None:
    good = [pair() for _ in range(3)]
    broken = Pair(noisy=torch.full_like(good[0].noisy, bad), clean=good[0].clean, sigma=good[0].sigma)
    kept: list[list[Tensor]] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Task, *_: object) -> None:
            kept.append([t.detach().clone() for t in state(pl_module, trainer)])

    of = line(optimizer, normalize=normalize)
    fit(of, [good[0], broken, good[1], broken, good[2]], tmp_path / "a", Keep())
    for before, after in ((0, 1), (2, 3)):
        assert len(kept[before]) >= 4
        assert all(torch.equal(a, b) for a, b in zip(kept[before], kept[after], strict=True))
    assert not torch.equal(kept[1][0], kept[2][0])
    assert all(torch.isfinite(t).all() for t in kept[-1])
    assert int(of.skipped) == 2


def test_moments_of_a_checkpoint_take_the_memory_layout_of_their_weights(tmp_path: Path) -> None:
    """Fused kernels ignore strides: on a CPU, channels-last moments would be assigned to the wrong weights."""
    ends = []
    for kind in (torch.contiguous_format, torch.channels_last):
        L.seed_everything(0, verbose=False)
        of = task()
        optimizer = of.configure_optimizers()["optimizer"]
        for parameter in of.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        for kept in optimizer.state.values():
            kept.update({k: v.to(memory_format=kind) for k, v in kept.items() if v.dim() == 4})
        of.optimizers = lambda use_pl_optimizer=True, optimizer=optimizer: optimizer
        of.on_train_start()
        optimizer.step()
        ends.append([p.detach() for p in of.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# -- arithmetic -------------------------------------------------------------------------------------------------


def test_batches_and_weights_stay_contiguous_on_a_cpu() -> None:
    assert layout(torch.device("cpu")) is torch.contiguous_format
    assert layout(torch.device("cuda", 1)) is torch.channels_last


def test_training_multiplies_in_tf32_and_coding_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def now() -> tuple[bool, bool, bool]:
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = now()
    with training_arithmetic(torch.device("cpu")):
        assert now() == before
    with training_arithmetic(torch.device("cuda")):
        assert now() == (True, True, True)
        with coding_arithmetic():
            with coding_arithmetic():
                assert not cudnn.allow_tf32
            assert not cudnn.allow_tf32, "restored by the outermost block"
        assert cudnn.allow_tf32
    assert now() == before
    seen = []
    of = task().model.eval()
    of.update()
    plain = type(of).analyse
    monkeypatch.setattr(type(of), "analyse", lambda self, *x: seen.append(cudnn.allow_tf32) or plain(self, *x))
    assert isinstance(of, Codec)
    of.decompress(of.compress(pair().noisy[:1]))
    assert seen == [False] and now() == before


# -- torch.compile ----------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checks of shapes and types, which the compiler of torch 2.11 cannot trace."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
def test_only_training_steps_run_compiled_and_nothing_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback, with a compiler that only counts calls."""
    graphs: list[bool] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        return lambda *args: graphs.append(torch.is_grad_enabled()) or graph(*args)

    plain, options = nn.Module.compile, []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: options.append(given) or plain(self, backend=count))
    of = task(experiment="unet")
    names = list(of.state_dict())
    during: list[list[str]] = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Task, *_: object) -> None:
            during.append(list(pl_module.state_dict()))

    loader = DataLoader([pair() for _ in range(3)], batch_size=None, collate_fn=lambda pair: pair)
    pictures = DataLoader([("a", pair())], batch_size=None, collate_fn=lambda one: one)
    trainer = L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=3, max_epochs=-1, logger=False, val_check_interval=2,
        check_val_every_n_epoch=None, callbacks=[EMA(), Compiled(), Look(), checkpoint(folder=tmp_path, every=3)],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(of, loader, pictures)
    assert options == [{"dynamic": False, "options": {"fallback_random": True}}]
    assert graphs == [True] * 3, "three steps, and no validation image"
    assert all(there == names for there in during) and of.model._compiled_call_impl is None
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    # a checkpoint holds the average under the names of the weights; the compiler renames neither
    assert not any("_orig_mod" in name for part in saved.values() if isinstance(part, dict) for name in map(str, part))
    assert set(names) <= set(saved["state_dict"])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("experiment", ["fllic", "jdc_cn", "flagship"])
def test_a_compiled_step_equals_the_eager_one(experiment: str) -> None:
    L.seed_everything(0, verbose=False)
    of, batch = task(experiment=experiment).train(), pair()

    def step() -> tuple[float, dict[str, Tensor]]:
        torch.manual_seed(1)
        prepared = of.criterion.prepare(batch)
        loss = of.criterion(of.predict(prepared), prepared)["loss"]
        of.zero_grad()
        loss.backward()
        return float(loss.detach()), {name: p.grad.clone() for name, p in of.named_parameters() if p.grad is not None}

    loss, gradients = step()
    of.model.compile(dynamic=False, options={"fallback_random": True})
    compiled, of_compiled = step()
    assert compiled == pytest.approx(loss, rel=1e-4) and set(gradients) == set(of_compiled)
    for name, gradient in gradients.items():  # a latent that is rounded differently changes few gradients
        assert (of_compiled[name] - gradient).norm() <= 0.15 * gradient.norm(), name
