"""CompressAI model -> codec of this suite: reference codecs on the same data, criterion, task and file format.

Begaint et al., "CompressAI" (arXiv 2011.03029, 2020). Networks and priors are theirs, entropy coder and file format are
ours; the hyper-synthesis is computed exactly (`entropy.exact`).
"""

from __future__ import annotations

import compressai.models
import torch
from compressai.entropy_models import EntropyModel
from compressai.models import CompressionModel
from compressai.models.google import get_scale_table
from jaxtyping import Float, Int
from torch import Tensor

from jdcsuite import checks
from jdcsuite.coding.tiling import in_windows
from jdcsuite.coding.transform import LARGE, TransformCodec
from jdcsuite.entropy.coder import MAX_SYMBOL, Decoder, Encoder, Tables, channel_indexes
from jdcsuite.entropy.exact import make_exact
from jdcsuite.types import Output, Side

# The only classes of the library that a weights file can name. Architectures with an autoregressive context are left
# out, because their decoders visit one position at a time.
ARCHITECTURES = ("ScaleHyperprior", "MeanScaleHyperprior")
Z_MARGIN = 3  # how far a result of the hyper-synthesis depends on z
TABLES = ("_quantized_cdf", "_offset", "_cdf_length")


class DropIn(TransformCodec):
    """``architecture``: class of `compressai.models`, one of `ARCHITECTURES`. ``num_channels``, ``num_latents``: its N
    and M.

    differs from CompressAI: the quantiles of the bottleneck are found by bisection when the tables are built, because
    learning them needs a second optimiser; symbols are coded by our coder, because a file has to decode exactly and to
    be safe to open.
    """

    stride = 64
    segment_names = ("z", "y")
    prior_networks = ("net.h_s",)

    def __init__(self, *, architecture: str, num_channels: int, num_latents: int) -> None:
        super().__init__()
        self.architecture = checks.choice("model.architecture", architecture, ARCHITECTURES)
        self.num_latents = num_latents
        self.has_means = architecture == "MeanScaleHyperprior"
        self.net: CompressionModel = getattr(compressai.models, architecture)(num_channels, num_latents)
        make_exact(self.net.h_s)
        self.net.entropy_bottleneck.quantiles.requires_grad_(False)
        self.net.gaussian_conditional.scale_table = get_scale_table()
        self._keep_tables_apart()

    def _keep_tables_apart(self) -> None:
        for part in self._priors().values():
            # their shapes change when tables are built, so they are stored as tables, not as weights
            part._non_persistent_buffers_set.update(TABLES)

    def _priors(self) -> dict[str, EntropyModel]:
        return {"z": self.net.entropy_bottleneck, "y": self.net.gaussian_conditional}

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            output = self.net(self.pad(x).float())
        return Output(x_hat=output["x_hat"][..., :height, :width], likelihoods=output["likelihoods"])

    def make_tables(self) -> dict[str, Tables]:
        self.net.update(force=True, update_quantiles=True)
        return {
            name: Tables(m._quantized_cdf.cpu(), m._cdf_length.cpu(), m._offset.cpu())
            for name, m in self._priors().items()
        }

    def table_counts(self) -> dict[str, int]:
        return {"z": self.net.entropy_bottleneck.channels, "y": len(self.net.gaussian_conditional.scale_table)}

    def constants(self) -> dict[str, object]:
        return {"architecture": self.architecture}

    def analyse(
        self, x: Float[Tensor, "1 3 h w"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "1 m hy wy"]:
        return self.net.g_a(x)

    def synthesise(
        self, y_hat: Float[Tensor, "1 m hy wy"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "1 3 h w"]:
        return self.net.g_s(y_hat)

    def encode_tile(self, y: Float[Tensor, "1 m hy wy"], *, side: Side) -> tuple[list[bytes], Int[Tensor, "n"]]:
        z = checks.finite("this image's hyper-latents", self.net.h_a(y if self.has_means else y.abs()))
        z_symbols = torch.round(z - self._medians()).clamp(-MAX_SYMBOL, MAX_SYMBOL).int()
        indexes, means = self._entropy_parameters(z_symbols)
        y_symbols = torch.round(y - means).clamp(-MAX_SYMBOL, MAX_SYMBOL).int()
        z_coder, y_coder = Encoder(), Encoder()
        z_coder.put(z_symbols.flatten(), channel_indexes(z.shape[1], z.shape[-2:]), self.tables["z"])
        y_coder.put(y_symbols.flatten(), indexes, self.tables["y"])
        return [z_coder.segment(), y_coder.segment()], torch.cat([z_symbols.flatten(), y_symbols.flatten()])

    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, side: Side
    ) -> tuple[Float[Tensor, "1 m hy wy"], Int[Tensor, "n"]]:
        z_coder, y_coder = (Decoder(segment) for segment in segments)
        size, device = (height // 64, width // 64), self._medians().device
        z = z_coder.get(channel_indexes(self.net.entropy_bottleneck.channels, size), self.tables["z"])
        z_coder.finish()
        indexes, means = self._entropy_parameters(z.view(1, -1, *size).to(device), y_coder)
        y = y_coder.get(indexes, self.tables["y"])
        y_coder.finish()
        y_hat = y.view(1, -1, height // 16, width // 16).to(device) + means
        return y_hat.float(), torch.cat([z, y])

    def _entropy_parameters(
        self, z_symbols: Int[Tensor, "1 n hz wz"], y_coder: Decoder | None = None
    ) -> tuple[Int[Tensor, "k"], Tensor | float]:
        """Symbols of z -> table indexes and means of y, in float64 and with the same bits on every machine, in windows.
        ``y_coder``: its segment must be long enough for the symbols of y."""
        z, bits = z_symbols + self._medians().double(), 0.0

        def check(part: Tensor) -> None:
            nonlocal bits
            bits += self.tables["y"].least_bits(self._indexes(part).flatten())
            y_coder.require(bits)

        parameters = in_windows(
            lambda rows, columns: self.net.h_s(z[..., rows, columns]), *z.shape[-2:],
            side=LARGE // self.stride if self.exact else max(z.shape[-2:]), margin=Z_MARGIN, scale=4,
            check=None if y_coder is None else check,
        )  # fmt: skip
        return self._indexes(parameters).flatten(), parameters.chunk(2, 1)[1] if self.has_means else 0.0

    def _indexes(self, parameters: Float[Tensor, "1 k hy wy"]) -> Int[Tensor, "1 m hy wy"]:
        scales = parameters.chunk(2, 1)[0] if self.has_means else parameters
        return self.net.gaussian_conditional.build_indexes(scales)

    def _medians(self) -> Float[Tensor, "1 n 1 1"]:
        return self.net.entropy_bottleneck._get_medians().view(1, -1, 1, 1)
