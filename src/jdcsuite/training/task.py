"""Pairs -> optimiser steps, validation metrics and test rows: the LightningModules.

A task depends on no particular model, dataset or criterion: `criterion.prepare` gives input and target, the model an
Output, the criterion the loss; a codec is tested on real files (`metrics.judge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from jdcsuite import checks
from jdcsuite.judging.metrics import eight_bit, judge, of_input, quality, timed
from jdcsuite.models.clean_entropy import analytic_entropy
from jdcsuite.training.gradients import scale_gradients
from jdcsuite.training.quality import Quality
from jdcsuite.types import Output, Pair, Row, UserError


def halving(*, steps: int, warmup: int, every: float, lowest: float) -> Callable[[int], float]:
    """Learning-rate factor as a function of the step: linear ``warmup``, then halved whenever another fraction
    ``every`` of all ``steps`` is done, down to ``lowest`` (FLLIC: every 4e4 of 1.6e5 steps, from 1e-4 to 1.25e-5)."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / max(warmup, 1)) * max(0.5 ** math.floor(step / (every * steps)), lowest)

    return factor


class Task(L.LightningModule):
    """Training common to all methods. ``optimizer``: parameters -> optimiser; ``schedule``: step -> factor of the
    learning rate. ``max_norm``, ``normalize``: of `scale_gradients`. ``qualities``: 0 to 100, where a codec of any rate
    is tested; None for codecs of one rate."""

    def __init__(
        self,
        *,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: partial[Optimizer],
        schedule: Callable[[int], float],
        max_norm: float,
        seed: int,
        normalize: bool = False,
        qualities: list[float] | None = None,
    ) -> None:
        super().__init__()
        if "lr" in optimizer.keywords:
            checks.number("lr", optimizer.keywords["lr"], above=0)
        checks.number("task.max_norm", max_norm, least=0)
        for value in qualities or ():
            checks.number("task.qualities", value, least=0, most=100)
        self.tested_at: list[dict[str, float]] = [{"quality": float(q)} for q in qualities or ()] or [{}]
        self.model, self.criterion = model, criterion
        self.normalize = checks.flag("task.normalize", normalize)
        self.optimizer, self.schedule, self.max_norm, self.seed = optimizer, schedule, max_norm, seed
        self.first_of: Callable[[int], int] = lambda step: step  # step -> its first sample
        self.val_loss = MeanMetric()
        self.rows: list[Row] = []
        self.pictures: dict[tuple[str, str], dict[str, Tensor]] = {}
        # for the progress bar: Lightning reads the value of a metric logged with prog_bar=True at every step
        self.shown: dict[str, Tensor] = {}
        self.register_buffer("skipped", torch.tensor(0))
        self.register_buffer("last_finite", torch.tensor(0))  # number of the last step that was not skipped, from 1
        self.build()

    def build(self) -> None:
        """Creates the state that a subclass adds."""

    def observe(self, pair: Pair) -> None:
        """Called with every prepared training batch."""

    def predict(self, pair: Pair) -> Output:
        return self.model(pair.noisy, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy, **pair.settings)

    def training_step(self, pair: Pair, index: int) -> Tensor:
        # Quantisation noise is a function of (seed, sample number, rank): resuming is exact, and a run that starts from
        # weights does not repeat the noise they were trained with.
        number = self.first_of(self.global_step)
        torch.manual_seed(hash((self.seed, number, self.global_rank)) % 2**63)
        pair = self.criterion.prepare(pair)
        self.observe(pair)
        parts = self.criterion(self.predict(pair), pair)
        if self._logs():
            self.log_dict({f"train/{name}": value for name, value in parts.items()})
            self.log("train/lr", self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])
            self.shown = {f"train/{name}": parts[name].detach() for name in ("loss", "bpp") if name in parts}
        return parts["loss"]

    def _logs(self) -> bool:
        """Whether Lightning writes the metrics of this step; `log` is as slow when it does not."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Never synchronises with the device. Gradients are already reduced, so all ranks decide alike.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = scale_gradients(parameters, max_norm=self.max_norm, normalize=self.normalize)
        bad = ~torch.isfinite(norm)
        self.skipped += bad
        self.last_finite.copy_(torch.where(bad, self.last_finite, self.global_step + 1))
        if all(group.get("fused") for group in optimizer.param_groups):
            # The flag of GradScaler: with it a fused optimiser changes neither weights, moments nor its step count.
            optimizer.found_inf = bad.float()
        elif bad:  # synchronises; an optimiser does nothing without gradients
            optimizer.zero_grad(set_to_none=True)
        if self._logs():
            self.log("train/grad_norm", norm)
            self.log("train/skipped", self.skipped.float())

    def on_train_start(self) -> None:
        # Fused kernels ignore strides: moments from a checkpoint of another device, with another memory layout than
        # their parameters, would be assigned to the wrong elements, on a CPU silently.
        for parameter, state in self.optimizers(use_pl_optimizer=False).state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def check_finite(self, steps: int) -> None:
        """UserError where training ended with steps that were all skipped: a tenth of ``steps`` and ten at least, or
        every one."""
        last = int(self.last_finite)
        if steps - last >= max(10, steps // 10) or (steps and last == 0):
            raise UserError(
                f"the loss or its gradients are not finite in any step from {last + 1} to {steps}: lower lr, or look "
                "for NaN in the criterion and the model"
            )

    def parameter_groups(self) -> list[dict[str, object]]:
        """One group for each value of ``lr_scale``: this attribute of a module multiplies the learning rate of its own
        parameters, not of those of its submodules."""
        groups: dict[float, list[nn.Parameter]] = {}
        for module in self.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    groups.setdefault(float(getattr(module, "lr_scale", 1.0)), []).append(parameter)
        lr = self.optimizer.keywords.get("lr")  # None: the optimiser sets its own rate
        rates = {scale: {} if lr is None else {"lr": scale * lr} for scale in groups}
        return [{"params": parameters, **rates[scale]} for scale, parameters in groups.items()]

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = self.optimizer(self.parameter_groups())
        scheduler = LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        self.val_loss.reset()

    def validation_step(self, batch: tuple[str, Pair], index: int) -> None:
        self.validate(batch[1])

    def validate(self, pair: Pair) -> Pair:
        """Counts a validation image; returns it as the criterion prepares it. val/loss is the criterion itself, so
        methods that must not look at clean images do not."""
        prepared = self.criterion.prepare(pair)
        parts = self.criterion(self.predict(prepared), prepared)
        self.val_loss.update(parts["loss"])
        return prepared

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute(), prog_bar=True)

    def test_set(self, index: int) -> str:
        """Name of the test set behind a dataloader."""
        return self.trainer.datamodule.test_sets[index]


class CodecTask(Task):
    """A codec: validation adds PSNR and rate, the test compresses and decompresses each image."""

    def build(self) -> None:
        self.val_quality = Quality(ms_ssim=False)
        self.val_bpp = MeanMetric()

    def validation_step(self, batch: tuple[str, Pair], index: int) -> None:
        _, pair = batch
        prepared = self.validate(pair)
        output = self.predict(replace(pair, sigma=prepared.sigma, settings=prepared.settings))
        self.val_quality.update(eight_bit(output.x_hat.float()), pair.clean)
        height, width = pair.clean.shape[-2:]
        self.val_bpp.update(sum(rate.mean() for rate in output.bpp(height * width).values()))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for name, value in self.val_quality.compute().items():
            self.log(f"val/{name}", value, prog_bar=True)
        self.log("val/bpp", self.val_bpp.compute())
        self.val_quality.reset()
        self.val_bpp.reset()

    def on_test_start(self) -> None:
        self.model.eval()
        self.model.update()

    def test_step(self, batch: tuple[str, Pair], index: int, dataloader_idx: int = 0) -> None:
        name, pair = batch
        dataset = self.test_set(dataloader_idx)
        with torch.autocast(self.device.type, enabled=False):
            input_row = of_input(pair)
            if index == 0:  # warm-up of caches and kernels, so that the times of the first row are comparable
                judge(self.model, pair, input_row=input_row, settings=self.tested_at[0])
            judged = [judge(self.model, pair, input_row=input_row, settings=settings) for settings in self.tested_at]
        self.rows += [replace(row, dataset=dataset, image=name) for row, _ in judged]
        if index == 0:
            _, x_hat = judged[len(judged) // 2]
            self.pictures[dataset, name] = {"noisy": pair.noisy, "decoded": x_hat, "clean": pair.clean}


class DenoiserTask(Task):
    """A denoiser: rows have quality and time, but no rate."""

    def build(self) -> None:
        self.val_quality = Quality(ms_ssim=False)

    def validation_step(self, batch: tuple[str, Pair], index: int) -> None:
        _, pair = batch
        self.validate(pair)
        self.val_quality.update(eight_bit(self.predict(pair).x_hat.float()), pair.clean)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/psnr", self.val_quality.compute()["psnr"], prog_bar=True)
        self.val_quality.reset()

    def test_step(self, batch: tuple[str, Pair], index: int, dataloader_idx: int = 0) -> None:
        name, pair = batch
        dataset = self.test_set(dataloader_idx)
        with torch.autocast(self.device.type, enabled=False):
            denoised, milliseconds = timed(lambda: self.model.denoise(pair.noisy), pair.noisy)
        x_hat = eight_bit(denoised)
        columns = {
            "dataset": dataset,
            "image": name,
            "enc_ms": round(milliseconds, 3),
            "device": pair.noisy.device.type,
        }
        self.rows.append(replace(of_input(pair), **columns, **quality(x_hat, pair.clean)))
        if index == 0:
            self.pictures[dataset, name] = {"noisy": pair.noisy, "decoded": x_hat, "clean": pair.clean}


class EstimatorTask(Task):
    """A clean-entropy network: the test compares it and simpler estimates with the true entropy."""

    def build(self) -> None:
        # count and sums of x, y, xx, xy over the training crops, for the linear fit of the true entropy to H(noisy)
        self.register_buffer("sums", torch.zeros(5, dtype=torch.float64))

    def observe(self, pair: Pair) -> None:
        x, y = pair.bpp_noisy.double(), pair.bpp_clean.double()
        sums = torch.stack([torch.ones_like(x), x, y, x * x, x * y]).sum(1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        self.sums += sums

    def test_step(self, batch: tuple[str, Pair], index: int, dataloader_idx: int = 0) -> None:
        name, pair = batch
        pair = self.criterion.prepare(pair)
        n, x, y, xx, xy = self.sums.tolist()
        slope = (n * xy - x * y) / max(n * xx - x * x, 1e-12)
        h_noisy, sigma = float(pair.bpp_noisy[0]), float(pair.sigma[0])
        self.rows.append(
            Row(
                dataset=self.test_set(dataloader_idx),
                image=name,
                sigma=sigma,
                height=pair.clean.shape[-2],
                width=pair.clean.shape[-1],
                h_noisy=h_noisy,
                h_clean=float(pair.bpp_clean[0]),
                h_hat=float(self.predict(pair).h_hat[0]),
                h_mean=y / max(n, 1),
                h_linear=(y - slope * x) / max(n, 1) + slope * h_noisy,
                h_analytic=analytic_entropy(pair.noisy[0], sigma=sigma, bpp_noisy=h_noisy),
            )
        )
