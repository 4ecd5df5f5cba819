"""Train the student on labels and pseudo-labels as a Ray job.

ray job submit --working-dir . -- python jobs/distill.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["distill", *sys.argv[1:]]))
