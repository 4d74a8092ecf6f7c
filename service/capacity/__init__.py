"""What an installation must be able to carry, computed from how many holders it has and from measured coefficients."""
