"""The API for programs: questions about a cache, and changes of it."""
