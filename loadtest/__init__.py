"""Load tests: open-loop generators, locust users, reports. Speaks HTTP and LDAP to a running service.

Owns nothing of the service and imports nothing of it, save the native SM2 core that judges signatures (`loadtest.sm2`).
"""
