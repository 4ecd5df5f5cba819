"""Label the pool, as a Ray job; submit it again to go on after an interruption.

ray job submit --working-dir . -- python jobs/label.py CONFIG --out URI [--a.b VALUE ...]
"""

import sys

from raylabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["label", *sys.argv[1:]]))
