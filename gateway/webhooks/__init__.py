"""Telling callers: events are recorded with the result, signed, and delivered at least once."""
