"""Files made from a profile, one module a file: each has `write(profile, path)`."""
