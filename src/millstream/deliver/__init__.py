"""Delivery: from the journal to elsewhere, in the background; nothing here runs on the caller's thread."""
