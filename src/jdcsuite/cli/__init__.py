"""`jdc <verb>`: the command line, a file for each room's verbs."""

from jdcsuite.cli.app import main

__all__ = ["main"]
