"""Our side of the cases."""
