"""A call that comes in: its options, its route, its acceptance or its answer."""
