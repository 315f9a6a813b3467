"""From a publisher to confirmed messages."""
