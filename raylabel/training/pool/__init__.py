"""The student's pseudo-labelled images."""
