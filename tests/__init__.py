"""qianyan's tests; a package, so that judges and references can be imported from any of them."""
