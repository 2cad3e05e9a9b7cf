"""`python -m smartbatch` is the `smartbatch` command."""

from smartbatch.cli import main

if __name__ == "__main__":
    main()
