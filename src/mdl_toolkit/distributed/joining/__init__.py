"""How the processes of a run learn of each other before they have joined: who is there, and who has ended."""
