"""What scanner software is built with: the client in C, and a scanner simulator in four languages."""
