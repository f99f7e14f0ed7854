"""Words of the command line -> values: parsers and options that several verbs share, and usage errors as sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated

import typer

from jdcsuite.types import UserError

UsageError = typer.BadParameter.__bases__[0]  # of click, or of the copy of click in newer versions of typer
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kmg]?)(i?)b?", re.IGNORECASE)

Jobs = Annotated[int, typer.Option(min=1, help="number of processes, which share the CPU cores")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Force = Annotated[bool, typer.Option("--force", help="replace existing outputs")]
Json = Annotated[bool, typer.Option("--json", help="print a list of JSON objects, for scripts")]


def within(name: str, lowest: float, highest: float, expected: str) -> Callable[[str], float]:
    """A parser of finite numbers from ``lowest`` to ``highest``. ``expected``: what the error says to give."""

    def parse(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest or math.isinf(number):
            raise UserError(f"--{name} {word} is not possible: give {expected}")
        return number

    return parse


def noise_level(word: str) -> float | None:
    """A noise level in grey levels; None for ``auto``."""
    if word == "auto":
        return None
    try:
        sigma = float(word)
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma < math.inf:
        raise UserError(f"--sigma {word} is not a noise level: give auto or grey levels of 0 or more")
    return sigma


def size(option: str) -> Callable[[str], int]:
    """Parser of a number of bytes; k, M and G are powers of 1000, Ki, Mi and Gi of 1024."""

    def parse(word: str) -> int:
        match = _SIZE.fullmatch(word.strip())
        number = 0
        if match and (match[2] or not match[3]):
            number = int(float(match[1]) * (1024 if match[3] else 1000) ** " kmg".index(match[2].lower() or " "))
        if number < 1:
            raise UserError(f"--{option} {word} is not a size: give bytes, as in 200000, 200k or 1.5M")
        return number

    return parse


def sentence(error: UsageError) -> str:
    """A usage error in one sentence that says what to do."""
    context = error.ctx
    see_help = f"see {context.command_path if context else 'jdc'} --help"
    command = context.info_name if context else "jdc"
    if unknown := re.match(r"No such command '(.*?)'", error.message):
        return f"there is no verb {unknown[1]}: choose one of {', '.join(context.command.commands)}"
    if (param := getattr(error, "param", None)) is not None:
        name = param.metavar if param.param_type_name == "argument" and param.metavar else "/".join(param.opts)
        if hasattr(error, "param_type"):  # only of missing parameters
            meaning = (getattr(param, "help", None) or "").partition(";")[0]
            return f"{command} needs {name}" + (f" ({meaning})" if meaning else "") + f": {see_help}"
        return f"{name} cannot be used ({error.message[:1].lower()}{error.message[1:].rstrip('.')}): {see_help}"
    if (option := getattr(error, "option_name", None)) is not None:
        if not hasattr(error, "possibilities"):  # only of unknown options
            return f"{option} needs a value: {see_help}"
        meant = " or ".join(sorted(error.possibilities or []))
        return f"{command} has no option {option}: " + (f"did you mean {meant}?" if meant else see_help)
    return f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}: {see_help}"
