"""From prompts, a clip's length and an answer to token ids and labels."""
