"""Families that predict by queries, such as Mask2Former."""
