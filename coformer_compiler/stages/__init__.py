"""The stages of a build, one a file: each turns artifacts into one artifact through the store."""
