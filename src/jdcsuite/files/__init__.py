"""Image files <-> `.jdc` files, in batches: what the file verbs of `jdc` do, and the Python interface."""
