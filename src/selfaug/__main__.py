"""`python -m selfaug`, the same as `selfaug`."""

from selfaug.cli.main import main

if __name__ == "__main__":
    main()
