"""The door for what happens by the clock: any number of processes with the effect of one."""
