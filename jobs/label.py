"""Label the pool as a Ray job. Submit the job again to continue after an interruption.

ray job submit --working-dir . -- python jobs/label.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["label", *sys.argv[1:]]))
