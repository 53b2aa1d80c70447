"""The cases, by kind: what each runs, in which sizes, beside which twin."""
