"""The folder `labels/` of a run: shards, rows, totals, manifest."""
