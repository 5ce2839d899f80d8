"""`python -m erllama` is the same as `erllama`."""

from erllama.cli import main

main()
