"""Shards and jobs on Ray. The only folder that imports ray. Knows no stage."""
