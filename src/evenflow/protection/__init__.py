"""What protects others: limits and breakers of waiting handlers, and the backlog that publishers wait for."""
