"""The evaluators that come with millstream: pydantic models of their options that are called with an item."""
