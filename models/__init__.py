"""Memory: tables, lifecycles, sessions and migrations. Nothing here knows what a provider is."""
