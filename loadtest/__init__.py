"""Load against a running service; speaks HTTP only."""
