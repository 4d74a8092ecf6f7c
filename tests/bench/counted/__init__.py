"""Instructions of a few operations, counted by callgrind: exact where times are not (see its __main__.py)."""
