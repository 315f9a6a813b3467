"""The way out: an experiment is recorded, and its message goes to the broker, once or again."""
