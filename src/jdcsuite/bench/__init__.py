"""Time and memory of coding (`code`) and training (`train`) on this machine, relative to named alternatives."""
