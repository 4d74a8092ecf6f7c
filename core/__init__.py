"""What every part of qianyan shares: errors, ports, settings, X.509 codecs, store, audit, metrics.

Imports nothing else of ours and needs no compiler.
"""
