"""Parts of scripts/list_architectures.py."""
