"""App projects that ftx generates; the first ones come with `ftx app`."""
