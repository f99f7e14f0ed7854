"""`jdc bench code`: what Lightning, the competition of priors and coding cost on this machine, as a table."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from jdcsuite.artifacts import environment
from jdcsuite.bench.coding import SIZE, codec_speed, coders, kmac, rivals
from jdcsuite.bench.common import configuration, quartiles
from jdcsuite.bench.loops import loop_overhead
from jdcsuite.bench.priors import competition
from jdcsuite.training import job as training

RIVAL_WIDTH = 0.6  # of FLLIC, where its kMAC/px are those of mbt2018-mean


def report(
    console: Console,
    *,
    overrides: tuple[str, ...] = (),
    steps: int = 10,
    blocks: int = 11,
    repeats: int = 5,
    size: tuple[int, int] = SIZE,
    width: float = 1.0,
    rival_width: float = RIVAL_WIDTH,
    crop: int = 128,
) -> None:
    """Prints this machine's figures: the training loop at the demo budget unless ``overrides`` say otherwise, a step of
    JDC's codec of ``width`` on crops of ``crop`` pixels, and coding at the FLLIC of ``width``, its weights as they
    start."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table("what", "median", "quartiles", title=f"FLLIC on {environment.hardware()}")
    if blocks:
        ratios = loop_overhead(overrides=overrides, steps=steps, blocks=blocks).ratios
        table.add_row(f"training step, Lightning / bare loop ({blocks - 1} x {steps} steps)", *quartiles(ratios, ".3f"))
    forms = competition(width=width, crop=crop, repeats=repeats, device=device)
    ours, slow = forms["searched"], forms["naive"]
    for form, said in (("searched", "searched priors"), ("free", "no search at all")):
        ratios = [a / b for a, b in zip(slow.times, forms[form].times, strict=True)]
        table.add_row(f"training step of JDC's codec, 4 crops of {crop}: naive / {said}", *quartiles(ratios, ".2f"))
    table.add_row("  searched, ms", *quartiles(ours.times, ".1f"))
    table.add_row("  kept for the backward pass: naive / searched", f"{slow.kept / ours.kept:.2f}", "")
    table.add_row("  loss of the first step, searched and naive", f"{ours.loss:.5f}", f"{slow.loss:.5f}")
    model = training.build(configuration(f"width={width}"), {})[1].model.eval().to(device)
    model.update()
    picture = f"{size[1]}x{size[0]} pixels"
    for verb, measured in codec_speed(model, size=size, repeats=repeats, device=device).items():
        ms, outside = zip(*measured, strict=True)
        table.add_row(f"{verb} {picture}, {kmac(model):.0f} kMAC/px, ms", *quartiles(ms, ".1f"))
        table.add_row("  share outside the networks", *quartiles(outside, ".1%"))
    count, coding = coders(model, size=size, repeats=repeats)
    for subject, times in ((picture, rivals(width=rival_width, size=size, repeats=repeats, device=device)),
                           (f"{count} symbols", coding)):  # fmt: skip
        (first, ours), (second, theirs) = times.items()
        for verb in ours:
            ratios = [a / b for a, b in zip(ours[verb], theirs[verb], strict=True)]
            table.add_row(f"{verb} {subject}: {first} / {second}", *quartiles(ratios, ".2f"))
            table.add_row("  the former, ms", *quartiles(ours[verb], ".1f"))
    console.print(table)
