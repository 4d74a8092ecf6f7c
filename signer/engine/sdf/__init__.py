"""Keys in hardware modules: a pool of GM/T 0018 (SDF) devices behind the engine's KeyBackend."""
