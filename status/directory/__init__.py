"""Publication of certificates and CRLs: to LDAP directories and object stores, by way of the store's outbox."""
