"""Measure and correct the teacher's confidence as a Ray job.

ray job submit --working-dir . -- python jobs/calibrate.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["calibrate", *sys.argv[1:]]))
