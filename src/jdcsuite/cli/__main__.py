"""`python -m jdcsuite.cli`: the same as `jdc`."""

from jdcsuite.cli.app import main

main()
