"""Exchanges, queues and bindings as topics and subscriptions."""
