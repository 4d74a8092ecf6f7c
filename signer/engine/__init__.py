"""Keys and how they are used: key store, batches, signing engine."""
