"""Asking a model for a verdict, and taking nothing for one that is none."""
