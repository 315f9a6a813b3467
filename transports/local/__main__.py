"""``python -m transports.local``: run a broker in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from transports.local import BrokerError, Options, serve


def main() -> int:
    """Parse, serve, return the exit code; the one place that prints an error."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    beyond = Options(
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        require_tokens=options.require_tokens,
        metrics_port=options.metrics_port,
    )
    try:
        serve(options.data, options.host, options.port, lambda address: print(f"ready {address}", flush=True), beyond)
    except BrokerError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transports.local", description="A local Pub/Sub broker.")
    parser.add_argument("--host", default="127.0.0.1", help="an address; needs TLS and tokens unless it is loopback")
    parser.add_argument("--port", type=int, default=8085, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="directory for what the broker keeps")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain, a PEM file")
    parser.add_argument("--tls-key", type=Path, help="the certificate's key, a PEM file")
    parser.add_argument("--require-tokens", action="store_true", help="ask for tokens on loopback, too")
    parser.add_argument("--metrics-port", type=int, help="port of a page for Prometheus, /metrics (default: none)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
