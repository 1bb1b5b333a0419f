"""`python -m image_registry` is the `image-registry` command."""

from image_registry.cli.main import main

if __name__ == "__main__":
    main()
