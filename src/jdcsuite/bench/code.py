"""`jdc bench code`: time of coding on this machine, beside CompressAI's, as a table."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from jdcsuite.artifacts import environment
from jdcsuite.bench.coding import SIZE, codec_speed, coders, kmac, rivals
from jdcsuite.bench.common import configuration, quartiles
from jdcsuite.training import job as training

RIVAL_WIDTH = 0.6  # of FLLIC, with the kMAC/px of mbt2018-mean


def report(
    console: Console,
    *,
    repeats: int = 5,
    size: tuple[int, int] = SIZE,
    width: float = 1.0,
    rival_width: float = RIVAL_WIDTH,
) -> None:
    """Prints the times of a FLLIC of ``width`` with initial weights on an image of ``size`` (height, width)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table("what", "median", "quartiles", title=f"FLLIC on {environment.hardware()}")
    model = training.build(configuration(f"width={width}"), {})[1].model.eval().to(device)
    model.update()
    image = f"{size[1]}x{size[0]} pixels"
    for verb, measured in codec_speed(model, size=size, repeats=repeats, device=device).items():
        ms, outside = zip(*measured, strict=True)
        table.add_row(f"{verb} {image}, {kmac(model):.0f} kMAC/px, ms", *quartiles(ms, ".1f"))
        table.add_row("  share outside the networks", *quartiles(outside, ".1%"))
    count, coding = coders(model, size=size, repeats=repeats)
    for subject, times in ((image, rivals(width=rival_width, size=size, repeats=repeats, device=device)),
                           (f"{count} symbols", coding)):  # fmt: skip
        (first, ours), (second, theirs) = times.items()
        for verb in ours:
            ratios = [a / b for a, b in zip(ours[verb], theirs[verb], strict=True)]
            table.add_row(f"{verb} {subject}: {first} / {second}", *quartiles(ratios, ".2f"))
            table.add_row("  the former, ms", *quartiles(ours[verb], ".1f"))
    console.print(table)
