"""Key management between installations (GM/T 0014 CA-KM messages) and its master key in hardware modules."""
