"""One process that learns: examples, augmentation, optimizer, loop, checkpoints. Uses torch. Never imports Ray."""
