"""What recurs: when (recurrence), as it is declared (schedule), and its firing (scheduling)."""
