"""``python -m transports.local``: run a broker in the foreground until SIGTERM or Ctrl-C, or say who may use it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from transports.local import BrokerError, Options, serve
from transports.local.access import commands
from transports.local.engine import GRACE_SECONDS
from transports.local.options import SILENCE_SECONDS
from transports.local.rules import MAX_ACK_DEADLINE_SECONDS


def main() -> int:
    """Parse, serve, return the exit code; the one place that prints an error."""
    options = _parse()
    try:
        options.run(options)
    except BrokerError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _serve(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    beyond = Options(
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        require_tokens=options.require_tokens,
        grace_seconds=options.grace_seconds,
        silence_seconds=options.silence_seconds,
        metrics_port=options.metrics_port,
    )
    serve(options.data, options.host, options.port, lambda address: print(f"ready {address}", flush=True), beyond)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m transports.local", description="A local Pub/Sub broker.")
    parser.add_argument("--host", default="127.0.0.1", help="an address; needs TLS and tokens unless it is loopback")
    parser.add_argument("--port", type=int, default=8085, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="directory for what the broker keeps; required")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain, a PEM file")
    parser.add_argument("--tls-key", type=Path, help="the certificate's key, a PEM file")
    parser.add_argument("--require-tokens", action="store_true", help="ask for tokens on loopback, too")
    parser.add_argument(
        "--grace-seconds",
        type=_seconds,
        default=GRACE_SECONDS,
        help="how long messages stay leased at least that were so when the broker ended (default: %(default)g)",
    )
    parser.add_argument(
        "--silence-seconds",
        type=float,
        default=SILENCE_SECONDS,
        help="after how long a client that does not answer has gone (default: %(default)g)",
    )
    parser.add_argument("--metrics-port", type=int, help="port of a page for Prometheus, /metrics (default: none)")
    parser.set_defaults(run=_serve)
    commands.add_to(parser.add_subparsers(metavar="token"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("the following arguments are required: --data")
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from exc
    if not 0 <= seconds <= MAX_ACK_DEADLINE_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {MAX_ACK_DEADLINE_SECONDS} seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
