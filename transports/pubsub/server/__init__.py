"""The Pub/Sub server as this transport sees it: addresses, calls, streams, and what can go wrong with them."""
