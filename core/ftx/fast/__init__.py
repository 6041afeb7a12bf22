"""The fast training path: other arithmetic for the same modules, parameters and files."""
