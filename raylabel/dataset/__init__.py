"""Images and the truth about them: annotation files, splits, pools, decoding, sampling, the generated set."""
