"""Which models exist, who serves them, and at what rates: pure data, read once, shared by all."""
