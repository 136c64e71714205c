"""Datasets of every kind to rows: one module a format, and those for URLs and functions."""
