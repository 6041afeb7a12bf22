"""`python -m ftx`, and with it `torchrun -m ftx`."""

from ftx.cli import main

if __name__ == "__main__":
    main()
