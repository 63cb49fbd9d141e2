"""Pretrained networks: their catalogue, readers of their files, and the cache; all files are pinned by sha256."""
