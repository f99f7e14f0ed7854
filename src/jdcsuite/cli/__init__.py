"""`jdc VERB ...`: the command line, one module for the verbs of each room."""

from jdcsuite.cli.app import main

__all__ = ["main"]
