"""The unlabelled images: listings, rows, manifest, sorting."""
