"""Views of a training image."""
