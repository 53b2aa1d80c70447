"""The rivals, on their own ground, and what runs them."""
