"""The notebooks executed headless, and what the repository shows of them."""
