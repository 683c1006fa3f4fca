"""What people read: summaries and pictures."""
