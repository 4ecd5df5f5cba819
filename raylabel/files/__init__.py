"""Bytes, whole or not at all, on any store. Knows no run."""
