"""``python -m transports.local``: run a broker in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from transports.local import BrokerError, serve


def main() -> int:
    """Parse, serve, return the exit code; the one place that prints an error."""
    parser = argparse.ArgumentParser(prog="python -m transports.local", description="A local Pub/Sub broker.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8085, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="directory for what the broker keeps")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(options.data, options.host, options.port, lambda address: print(f"ready {address}", flush=True))
    except BrokerError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
