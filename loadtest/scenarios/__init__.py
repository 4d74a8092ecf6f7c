"""What is asked of the service: one module a family, each scenario usable alone or mixed with others."""
