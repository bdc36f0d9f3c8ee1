"""The door for work that takes long: Dramatiq actors over the gateway."""
