"""The command line, `python -m labutils`."""
