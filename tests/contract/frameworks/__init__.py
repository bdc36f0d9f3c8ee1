"""What users of other people's frameworks write, run by an interpreter that has those installed."""
