"""Known planes of an image -> the samples of one more, coded exactly: a network of LC-FDNet (Rhee et al., "LC-FDNet:
learned lossless image compression with frequency decomposition network", CVPR 2022, section 3).

It predicts a sample, the distribution of its error and the magnitude of the error. Samples whose magnitude is below a
threshold, which the network sets for each image, come first; a second branch codes the others with these as further
input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jdcsuite.coding.tiling import Box, boxes, in_windows
from jdcsuite.entropy.exact import INPUT_UNITS, MAX_INPUT, ExactConv2d
from jdcsuite.entropy.logits import RowPerSymbol, tables

SCALE = 256  # the networks see samples divided by it
REACH, HEAD_REACH, THRESHOLD_REACH = 7, 2, 2  # pixels that the parts of a network reach; the last in units of 4
WINDOW, HEAD_WINDOW = 128, 64  # side of what a network computes at once; the second orders the samples of a file

Exchange = Callable[[RowPerSymbol, Tensor, Tensor], Tensor]


class NormalizedConv2d(ExactConv2d):
    """A convolution followed by batch normalisation, which exact evaluation folds into its weights. ``gamma``,
    ``beta``, ``mean`` and ``var``: of the normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gamma, self.beta = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("var", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if x.dtype == torch.float64:
            return out
        return F.batch_norm(out, self.mean, self.var, self.gamma, self.beta, self.training, 0.1, 1e-5)

    def _affine(self) -> tuple[Tensor, Tensor]:
        weight, bias = super()._affine()
        gain = self.gamma.detach().double() / (self.var.double() + 1e-5).sqrt()
        return weight * gain[:, None, None, None], (bias - self.mean.double()) * gain + self.beta.detach().double()


def _conv(inputs: int, outputs: int) -> ExactConv2d:
    return ExactConv2d(inputs, outputs, 3, padding=1)


class _Branch(nn.Module):
    """Known samples -> features; features -> error of the prediction, logits of its distribution."""

    def __init__(self, inputs: int, hidden: int, outcomes: int) -> None:
        super().__init__()
        self.first = NormalizedConv2d(inputs, hidden)
        self.blocks = nn.ModuleList(nn.ModuleList(NormalizedConv2d(hidden, hidden) for _ in range(2)) for _ in range(3))
        self.residual = _conv(hidden, 1)
        self.widen = NormalizedConv2d(hidden, 2 * hidden)
        self.logits = _conv(2 * hidden, outcomes)

    def features(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n h w"]:
        x = self.first(x).relu()
        for one, two in self.blocks:
            x = (two(one(x).relu()) + x).relu()
        return x

    def logits_at(self, x: Float[Tensor, "1 n h w"], rows: Tensor, columns: Tensor) -> Float[Tensor, "p k"]:
        """The exact logits of some pixels only."""
        last, wide = self.logits, self.widen(x).relu()
        patches = F.unfold(last._integers(wide), 3, padding=1).unflatten(2, wide.shape[-2:])[0, :, rows, columns]
        weight, bias = last._dyadic()
        return torch.addmm(bias, patches.mT, weight.flatten(1).mT)


class FrequencyNet(nn.Module):
    """One of the nine networks. ``inputs``: planes that are decoded already. ``low``, ``high``: smallest and largest
    sample of its plane."""

    def __init__(self, *, inputs: int, hidden: int, low: int, high: int) -> None:
        super().__init__()
        self.smallest, self.largest = low, high
        self.half = high - low  # largest magnitude of a residual
        self.low = _Branch(inputs, hidden, 2 * self.half + 1)
        self.high = _Branch(inputs + 1, hidden, 2 * self.half + 1)
        self.error = _conv(hidden, 1)
        self.threshold = nn.ModuleList(NormalizedConv2d(hidden, n) for n in (hidden, hidden, 1))

    def threshold_map(self, features: Float[Tensor, "b n h w"]) -> Float[Tensor, "b 1 _ _"]:
        """Its mean over the image, times 10, is the threshold. Images below 4 pixels are not pooled further."""
        for layer in self.threshold[:2]:
            features = layer(features).relu()
            features = F.max_pool2d(features, [min(2, side) for side in features.shape[-2:]])
        return self.threshold[2](features).relu()

    def first_outcome(self, prediction: Tensor) -> Int64[Tensor, "*shape"]:
        """Index of the smallest possible residual, prediction - sample, among the logits: only as many residuals as
        there are samples are possible, from this one on."""
        rounded = (prediction.clamp(self.smallest, self.largest) + 0.5).floor().long()
        return rounded - self.largest + self.half

    # -- training ----------------------------------------------------------------------------------------------

    def forward(
        self, known: Float[Tensor, "b k h w"], reference: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b"]]:
        """Samples in grey levels -> log2 likelihood of each target, and the auxiliary loss of each image: the absolute
        errors of both predictions and of the predicted magnitude, means in grey levels."""
        features = self.low.features(known / SCALE)
        magnitude = self.error(features).relu()
        threshold = 10 * self.threshold_map(features).mean((2, 3), keepdim=True)
        smooth = (magnitude < threshold).to(known)
        soft = torch.sigmoid(threshold - magnitude)
        share = smooth + soft - soft.detach()  # straight-through: the threshold learns from the difference in bits
        bits_low, error_low = self._log2_likelihood(self.low, features, reference, target)
        features = self.high.features(torch.cat([known, smooth * target], 1) / SCALE)
        bits_high, error_high = self._log2_likelihood(self.high, features, reference, target)
        auxiliary = smooth * error_low + (1 - smooth) * error_high + (magnitude - error_low).abs()
        return share * bits_low + (1 - share) * bits_high, auxiliary.flatten(1).mean(1)

    def _log2_likelihood(
        self, branch: _Branch, features: Tensor, reference: Tensor, target: Tensor
    ) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
        """Of each target, and the absolute error of its prediction."""
        prediction = (branch.residual(features) + reference).float().clamp(self.smallest, self.largest)

        def likelihood(features: Tensor, first: Tensor) -> Tensor:
            outcomes = first + torch.arange(self.half + 1, device=first.device)[:, None, None]
            logits = branch.logits(branch.widen(features).relu()).float().gather(1, outcomes)
            return logits.gather(1, (self.largest - target).long()) - logits.logsumexp(1, keepdim=True)

        first = self.first_outcome(prediction.detach())
        if torch.is_grad_enabled():  # the logits of nine networks would take most of the memory of a step
            log = checkpoint(likelihood, features, first, use_reentrant=False)
        else:
            log = likelihood(features, first)
        return log / math.log(2), (target - prediction).abs()

    # -- coding ------------------------------------------------------------------------------------------------

    def code(
        self,
        known: Int64[Tensor, "1 k h w"],
        reference: Int64[Tensor, "1 1 h w"],
        exchange: Exchange,
    ) -> Int64[Tensor, "1 1 h w"]:
        """The plane of this network. ``exchange``: tables of the samples at some rows and columns, from the largest
        sample down -> these samples, which it writes or reads. Called in the same order by encoder and decoder."""
        height, width = known.shape[-2:]
        known, plane = known.double() / SCALE, torch.zeros_like(reference)
        features = self._windowed(self.low.features, known)
        smooth = self._windowed(lambda x: self.error(x).relu(), features) < self._exact_threshold(features)
        for branch, chosen in ((self.low, smooth), (self.high, ~smooth)):
            if branch is self.high:
                features = self._windowed(branch.features, torch.cat([known, (plane * smooth).double() / SCALE], 1))
            for box in boxes(height, width, HEAD_WINDOW):
                rows, columns = (place + start for place, start in zip(
                    chosen[0, 0, *box.pixels].nonzero(as_tuple=True), (box.top, box.left), strict=True
                ))  # fmt: skip
                if len(rows):
                    coding = self._tables(branch, features, reference, box, rows, columns)
                    plane[0, 0, rows, columns] = exchange(coding, rows, columns)
        return plane

    def _tables(
        self, branch: _Branch, features: Tensor, reference: Tensor, box: Box, rows: Tensor, columns: Tensor
    ) -> RowPerSymbol:
        top, left = max(0, box.top - HEAD_REACH), max(0, box.left - HEAD_REACH)
        part = features[..., top : box.top + box.height + HEAD_REACH, left : box.left + box.width + HEAD_REACH]
        inside = rows - top, columns - left
        prediction = branch.residual(part)[0, 0, *inside] + reference[0, 0, rows, columns]
        cdf = tables(branch.logits_at(part, *inside), self.first_outcome(prediction), count=self.half + 1)
        return RowPerSymbol.of(cdf)

    def _windowed(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``work`` in windows, which bound its memory."""
        return in_windows(lambda *part: work(x[..., *part]), *x.shape[-2:], side=WINDOW, margin=REACH, scale=1)

    def _exact_threshold(self, features: Float[Tensor, "1 n h w"]) -> Float[Tensor, ""]:
        """The same bits in any order of summation."""
        sides = features.shape[-2:]
        fours = [max(1, side // 4) for side in sides]

        def work(*parts: slice) -> Tensor:
            pixels = (
                slice(4 * part.start, None if part.stop >= n else 4 * part.stop)
                for part, n in zip(parts, fours, strict=True)
            )
            return self.threshold_map(features[..., *pixels])

        maps = in_windows(work, *fours, side=WINDOW // 4, margin=THRESHOLD_REACH, scale=1)
        total = (maps.clamp(0, MAX_INPUT) * INPUT_UNITS).round().long().sum()
        return 10 * (total.double() / (maps.numel() * INPUT_UNITS))
