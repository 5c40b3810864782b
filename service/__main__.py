"""`python -m service` is the command `contract-ledger`."""

from service.cli import main

if __name__ == "__main__":
    main()
