"""Celery's worker as a worker of ours: what it starts, what it hears, what it sets aside, how it leaves."""
