"""What a binary cache does, in terms of ports that it defines itself."""
