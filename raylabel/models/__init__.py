"""A network behind `Segmenter`. Knows no run."""
