"""Images and their annotations: LVIS/COCO reading, splits, pools, decoding, sampling, the generated long-tail set."""
