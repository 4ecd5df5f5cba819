"""Pretrained weights: names, files, downloads."""
