"""Augmentation: random views of a training image and its objects."""
