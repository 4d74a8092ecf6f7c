"""Puts the parts together: command line, settings, listeners, wiring."""
