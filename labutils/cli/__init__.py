"""What `python -m labutils` does."""
