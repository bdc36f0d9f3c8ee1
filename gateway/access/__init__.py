"""Who may come in, and the secrets that are kept for them."""
