"""A process that publishes one task and ends."""

import sys

from application import noop

noop.delay(int(sys.argv[1]))
