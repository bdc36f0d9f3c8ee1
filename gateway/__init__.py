"""The house: all that the gateway knows how to do, whichever door it is called from."""
