"""Codecs and test images -> rows of results -> curves, comparisons, tables and figures."""
