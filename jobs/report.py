"""Write the report of a run as a Ray job.

ray job submit --working-dir . -- python jobs/report.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["report", *sys.argv[1:]]))
