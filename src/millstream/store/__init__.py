"""Recorded spans, read back: from a journal, or from a file of spans."""

from millstream.store.open import Store, open_store

__all__ = ["Store", "open_store"]
