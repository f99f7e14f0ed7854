"""Codecs and test images -> rows of results -> the points of their curves, and comparisons."""
