"""The status set: one small signed file with the status of every unexpired certificate of an authority, and deltas.

Owns the encoder, the builder on the change feed, the judge and the routes. The reader is `qianyan_status`, which stands
alone; the format is in docs/status-set.md.
"""
