"""Talking HTTP to the outside: clients, the retry choice, the address guard."""
