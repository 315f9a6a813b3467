"""One subscription at work, in memory: its messages, who holds them, and who gets the next."""
