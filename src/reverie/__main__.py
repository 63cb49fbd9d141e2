"""``python -m reverie``, which is also what torchrun starts."""

from reverie.cli import main

if __name__ == "__main__":
    main()
