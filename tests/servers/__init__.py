"""Launchers of the real servers that tests talk to; README.md says how tests use them."""
