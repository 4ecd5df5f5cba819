"""One file per stage, read from top to bottom: inputs, later settings, work."""
