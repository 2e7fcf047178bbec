"""The arithmetic of scores: rows as numbers, and measures that no installed library has."""
