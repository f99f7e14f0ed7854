"""`python -m jdcsuite.cli`: same as `jdc`."""

from jdcsuite.cli.app import main

main()
