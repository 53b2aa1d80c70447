"""What harms a system on purpose. It needs nothing of Evenflow: whoever judges Evenflow may use it."""
