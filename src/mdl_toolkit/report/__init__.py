"""The report on runs: one JSON object with all that is known of them, in one page that shows it."""
