"""Evaluate teacher, student and baseline as a Ray job.

ray job submit --working-dir . -- python jobs/evaluate.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["evaluate", *sys.argv[1:]]))
