"""Dataset x workflow x evaluators -> scores, saved as they come."""
