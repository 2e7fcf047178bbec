"""What is wrong, or may be, with a set: findings, each with its rows and with what to do."""
