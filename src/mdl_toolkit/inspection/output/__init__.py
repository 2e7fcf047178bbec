"""What was found, as one object: as JSON, as text for a person, and as a page."""
