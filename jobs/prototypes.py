"""Compute the class prototypes of the labelled set as a Ray job.

ray job submit --working-dir . -- python jobs/prototypes.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prototypes", *sys.argv[1:]]))
