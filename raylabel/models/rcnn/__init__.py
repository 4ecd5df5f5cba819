"""The Mask R-CNN family, with soft class targets."""
