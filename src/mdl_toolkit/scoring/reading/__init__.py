"""What an answer says: the label, the option, the tags that it gives, and its words."""
