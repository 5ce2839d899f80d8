"""Models as actors: requests in, tokens out."""
