"""`python -m service` is `qianyan`."""

from service.cli import main

main()
