"""`python -m ray_unlearn`: the command line."""

from ray_unlearn.cli.main import main

if __name__ == "__main__":
    main()
