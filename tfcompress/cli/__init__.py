"""The `tfcompress` command line; one file a command."""
