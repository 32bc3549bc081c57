"""Everything that has to be measured on a GPU, in one command, `python -m bench.gpu`: see `bench.gpu.__main__`."""
