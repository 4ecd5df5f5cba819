"""Training of teacher and student: examples, augmentation, losses, moving average, checkpoints. Knows no Ray."""
