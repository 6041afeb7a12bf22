"""From records to labelled token rows."""
