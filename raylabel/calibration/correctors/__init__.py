"""Maps from (class, raw score) to a calibrated score: the base kinds, and one file per family."""
