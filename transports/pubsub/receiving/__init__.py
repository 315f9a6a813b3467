"""From a subscription to the consumer's callback."""
