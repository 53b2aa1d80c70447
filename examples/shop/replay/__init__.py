"""Replays the purchases as orders, shows how the services keep up, and checks what they made of it."""
