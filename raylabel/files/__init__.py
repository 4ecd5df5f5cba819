"""Files on any store, written whole or not at all. This folder knows nothing of runs."""
