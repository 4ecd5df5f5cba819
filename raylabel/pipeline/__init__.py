"""The stages of a run, each through Ray; the only folder that imports ray.

A stage is one function `run_stage(config, run) -> artifact` in a file of its name.
"""
