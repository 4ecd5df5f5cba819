"""Maps from (class, raw score) to a calibrated score. One file per family; the table of kinds is in `config`."""
