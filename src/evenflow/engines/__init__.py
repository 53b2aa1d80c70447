"""Implementations of the engine contract, one module each. An engine imports the contract files and nothing else."""
