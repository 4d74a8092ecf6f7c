"""Everything that makes a signature for a requester."""
