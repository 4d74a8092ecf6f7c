"""The store: one schema and one set of queries, on SQLite (embedded) and, by the same code, PostgreSQL.

`database` opens it and gives transactions; a module per table holds its queries. Nothing here knows ASN.1: DER is
bytes. Times are milliseconds since the epoch, serials minimal big-endian bytes in columns and `int` in arguments.
"""
