"""What a model said of one image; right or wrong; kept or dropped. No torch."""
