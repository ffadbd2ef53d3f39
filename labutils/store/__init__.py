"""Finished runs on disk: written whole, named by what made them, verified when read."""
