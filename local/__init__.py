"""The service on one machine: embedded servers, supervisor, provider simulator, demo account."""
