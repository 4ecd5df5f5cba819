"""What changes between the calibration split and the pool."""
