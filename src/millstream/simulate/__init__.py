"""Stand-ins for what is slow, dear or not there: an OpenAI-compatible model server that follows rules."""
