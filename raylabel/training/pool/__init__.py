"""Learning from the pool: choice, index, order, streaming and targets of pseudo-labels, and relabelling."""
