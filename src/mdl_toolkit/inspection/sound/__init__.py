"""What is found in the sound of clips: levels, fingerprints, and which clips are copies of each other."""
