"""``python -m mdl_toolkit`` and ``accelerate launch -m mdl_toolkit``."""

from mdl_toolkit.cli import main

if __name__ == "__main__":
    main()
