"""Questions of people about the store as a whole: search, debug information, the paths that a policy allows."""
