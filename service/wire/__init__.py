"""Listeners in compiled code: the connections of routes that must be fast, in front of aiohttp.

`_wire` (compiled) owns connections; `listener` wires them to a node's parts. Knows HTTP framing; what a route means is
the route's own affair.
"""
