"""Messages that were set aside: what they are, where they go, and how they come back."""
