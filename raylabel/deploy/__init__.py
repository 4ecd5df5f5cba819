"""A trained model on new images: which files make it, predictions in Python, and the command `predict`."""
