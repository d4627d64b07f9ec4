"""The core of one binary cache, in terms of ports that it defines itself."""
