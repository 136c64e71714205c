"""What `millstream record` puts first on PYTHONPATH; see `sitecustomize.py` here."""
