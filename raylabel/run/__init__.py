"""The files of a run folder: each is named, written and read here. No torch, no ray."""
