"""A proxy in front of an S3 server. It answers each request later, counts the requests, and runs in its own process.

    python benchmarks/delayed_store.py ENDPOINT SECONDS

The first line that it prints is its endpoint. For each line that it reads, it prints the number of requests so far.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from object_store import FlakyProxy


@contextmanager
def delayed_store(endpoint: str, seconds: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """Start the proxy, and yield its endpoint and a function that returns the number of requests so far."""
    command = [sys.executable, __file__, endpoint, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asking, answers = process.stdin, process.stdout

        def num_requests() -> int:
            asking.write("\n")
            return int(answers.readline())

        try:
            yield answers.readline().strip(), num_requests
        finally:
            asking.close()


def main() -> None:
    endpoint, seconds = sys.argv[1], float(sys.argv[2])
    with FlakyProxy(endpoint, delay_seconds=seconds) as proxy:
        print(proxy.endpoint, flush=True)
        for _ in sys.stdin:
            print(proxy.num_requests, flush=True)


if __name__ == "__main__":
    main()
