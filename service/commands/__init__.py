"""The commands of `qianyan`, a module each."""
