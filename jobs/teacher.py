"""Train the teacher as a Ray job.

ray job submit --working-dir . -- python jobs/teacher.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["teacher", *sys.argv[1:]]))
