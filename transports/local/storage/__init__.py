"""What lies on disk: tables, what is read and changed in them, and who commits it."""
