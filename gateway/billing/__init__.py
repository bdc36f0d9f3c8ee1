"""What a call may cost and what it did cost, and the ledger that remembers it."""
