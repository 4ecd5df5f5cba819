"""A mask without its image: run lengths, boxes, polygons."""
